"""The networks of the paper: shapes, sizes, and weights that go to disk and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

from art_advtransform.networks import FCN, NETWORKS, ResNet18, SmallVGG
from tests.problems import images, randomised, start_for


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("input_size", "channels", "classes"), [(32, 3, 10), (64, 3, 200), (8, 1, 10), (28, 1, 10)])
def test_shapes(input_size: int, channels: int, classes: int) -> None:
    x = images(2, (channels, input_size, input_size), dtype=torch.float32)
    nets = SmallVGG(classes, channels, input_size, widths=(4, 8, 8, 8), hidden=16), ResNet18(classes, channels, width=4)
    for net in nets:
        logits = net.eval()(x).detach()
        assert logits.shape == (2, classes)
        assert float((logits[0] - logits[1]).abs().max()) > 0  # the image matters


def linears(model: SmallVGG) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]


def test_small_vgg_is_table_4() -> None:
    assert linears(SmallVGG()) == [(512, 512), (512, 512), (512, 10)]
    assert linears(SmallVGG(200, input_size=64)) == [(2048, 512), (512, 512), (512, 200)]
    convs = [(m.in_channels, m.out_channels) for m in SmallVGG().modules() if isinstance(m, nn.Conv2d)]
    assert convs == [(3, 64), (64, 128), (128, 128), (128, 128), (128, 128), (128, 128)]
    names = [type(m).__name__ for m in SmallVGG().features]
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert names == [*block, "MaxPool2d", *block, "MaxPool2d", *block, *block, "MaxPool2d", *block, *block, "MaxPool2d"]
    assert [m.p for m in SmallVGG(dropout=0.3).modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]


def test_small_vgg_as_the_authors_released_it() -> None:
    assert size(SmallVGG(widths=(64, 128, 64, 128))) == 939_402


def test_small_vgg_leaves_out_pooling_of_a_single_pixel() -> None:
    pools = [m for m in SmallVGG(input_size=8).modules() if isinstance(m, nn.MaxPool2d)]
    assert len(pools) == 3
    assert linears(SmallVGG(input_size=8))[0] == (128, 512)


def test_resnet18_is_the_usual_one() -> None:
    # the CIFAR variant's count that is published everywhere
    assert size(ResNet18()) == 11_173_962
    convs = [m for m in ResNet18(width=4).modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 17 + 3  # 17 of the 18 layers, and 3 shortcuts
    assert (convs[0].kernel_size, convs[0].stride) == ((3, 3), (1, 1))
    assert [m.stride for m in convs if m.stride != (1, 1)] == [(2, 2)] * 6


def test_fcn_stays_in_the_ball_and_looks_at_both_inputs() -> None:
    h = randomised(FCN(3, eps=0.1, width=8), seed=1)
    x = images(2)
    start = start_for(x, 0.1)
    out = h(x, start).detach()
    assert 0 < float((out - x).abs().max()) <= 0.1
    assert not torch.allclose(h(x, -start) - x, out - x)
    assert not torch.allclose(h(1 - x, start) - (1 - x), out - x)
    assert h(images(1, (3, 13, 9)), torch.zeros(1, 3, 13, 9)).shape == (1, 3, 13, 9)


def test_fcn_reaches_the_border_of_its_ball() -> None:
    h = FCN(3, eps=0.3)
    with torch.no_grad():
        for p in h.parameters():
            p.fill_(5.0)  # far into the flat part of tanh
    x = images(1, dtype=torch.float32)
    torch.testing.assert_close(h(x, torch.zeros_like(x)) - x, torch.full_like(x, 0.3), rtol=0, atol=1e-3)


CASES: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "SmallVGG": (
        SmallVGG(3, 1, 8, widths=(2, 3, 4, 5), hidden=6, dropout=0.1),
        (images(2, (1, 8, 8), dtype=torch.float32),),
    ),
    "ResNet18": (ResNet18(3, 1, width=2), (images(2, (1, 8, 8), dtype=torch.float32),)),
    "FCN": (FCN(1, eps=0.15, width=3, depth=2), (images(2, (1, 8, 8), dtype=torch.float32),) * 2),
}


def test_every_network_is_tried() -> None:
    assert set(CASES) == set(NETWORKS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_weights_come_back_with_their_architecture(name: str, tmp_path: Path) -> None:
    net, inputs = CASES[name]
    randomised(net, seed=2, dtype=torch.float32)
    saved: Any = net
    saved.save_pretrained(tmp_path)
    loaded = NETWORKS[name].from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(*inputs), net(*inputs))
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}


def test_weights_as_a_pickle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub repository with pytorch_model.bin only: the mixin would unpickle it."""
    net = ResNet18(3, 1, width=2)
    net.save_pretrained(tmp_path)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")

    def download(filename: str, **options: Any) -> str:
        if filename.endswith(".safetensors"):
            raise EntryNotFoundError("no safetensors there")
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    with pytest.raises(ValueError, match=r"expected weights as safetensors, got .*pytorch_model\.bin"):
        ResNet18.from_pretrained("somebody/something")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SmallVGG(0), ValueError, "expected nb_classes >= 1, got 0"),
        (lambda: SmallVGG(in_channels=-1), ValueError, "expected in_channels >= 1, got -1"),
        (lambda: SmallVGG(input_size=0), ValueError, "expected input_size >= 1, got 0"),
        (lambda: SmallVGG(hidden=0), ValueError, "expected hidden >= 1, got 0"),
        (lambda: SmallVGG(widths=(4, 0, 4, 4)), ValueError, "expected widths >= 1, got 0"),
        (lambda: SmallVGG(widths=(4, 4, 4)), ValueError, "expected widths of 4 blocks, got 3"),
        (lambda: SmallVGG(dropout=1.5), ValueError, "dropout probability has to be between 0 and 1, but got 1.5"),
        (lambda: ResNet18(2.0), TypeError, "expected nb_classes to be an int, got float"),  # type: ignore[arg-type]
        (lambda: ResNet18(width=0), ValueError, "expected width >= 1, got 0"),
        (lambda: FCN(in_channels=0), ValueError, "expected in_channels >= 1, got 0"),
        (lambda: FCN(depth=0), ValueError, "expected depth >= 1, got 0"),
        (lambda: FCN(eps=-0.1), ValueError, "expected eps > 0, got -0.1"),
    ],
)
def test_bad_sizes(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        make()
