"""The f_b that the paper's authors released: its layout, its accuracy, and files that only look like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from art_advtransform.datasets import cifar10
from art_advtransform.networks import SmallVGG
from art_advtransform.pretrained import load_network, load_reference_checkpoint
from tests.problems import images, randomised


def their_names(state: dict[str, Any]) -> dict[str, Any]:
    """Their dropouts sit before the hidden layers, which moves the numbers of those by one."""
    moved = {"classifier.0": "classifier.1", "classifier.3": "classifier.4"}
    return {
        (moved.get(layer, layer)) + "." + parameter: value
        for key, value in state.items()
        for layer, _, parameter in [key.rpartition(".")]
    }


def test_reference_layout(tmp_path: Path) -> None:
    net = randomised(SmallVGG(widths=(64, 128, 64, 128)), seed=1, dtype=torch.float32)
    torch.save(their_names(net.state_dict()), tmp_path / "vgg0_adv.pth")
    loaded = load_reference_checkpoint(tmp_path / "vgg0_adv.pth")
    x = images(2, (3, 32, 32), dtype=torch.float32)
    assert torch.equal(loaded(x), net(x))
    assert not loaded.training
    assert torch.equal(load_network(f"reference:{tmp_path / 'vgg0_adv.pth'}")(x), net(x))


def test_reference_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.pth"):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*: expected the authors' vgg0_adv\.pth"):
            load_reference_checkpoint(path)


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_reference_runs_no_code(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Malicious(tmp_path / "made")}, tmp_path / "vgg0_adv.pth")
    with pytest.raises(ValueError, match=r"is not the authors' f_b checkpoint"):
        load_reference_checkpoint(tmp_path / "vgg0_adv.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        lambda: their_names(SmallVGG().state_dict()),
        dict,
        lambda: torch.zeros(3),
        lambda: [1, 2],
    ],
)
def test_reference_of_something_else(content: Callable[[], Any], tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "vgg0_adv.pth")
    with pytest.raises(ValueError, match="is not the authors' f_b checkpoint"):
        load_reference_checkpoint(tmp_path / "vgg0_adv.pth")


def test_reference_that_is_no_checkpoint(tmp_path: Path) -> None:
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "vgg0_adv.pth").write_bytes(content)
        with pytest.raises(ValueError, match="is not the authors' f_b checkpoint"):
            load_reference_checkpoint(tmp_path / "vgg0_adv.pth")


def test_reference_accuracy(data_root: Path) -> None:
    """The released f_b classifies 71.9 % of the clean CIFAR-10 test images correctly."""
    path = data_root / "reference" / "vgg0_adv.pth"
    if not path.is_file():
        pytest.skip("needs the authors' checkpoint: reference/vgg0_adv.pth in the data folder")
    net, test = load_reference_checkpoint(path), cifar10("test", data_root)
    assert sum(p.numel() for p in net.parameters()) == 939_402
    net = net.to(memory_format=torch.channels_last)
    with torch.no_grad():
        right = sum(
            int((net(x).argmax(1) == y).sum()) for x, y in zip(test.x.split(100), test.y.split(100), strict=True)
        )
    assert right / len(test) == pytest.approx(0.719, abs=0.001)
