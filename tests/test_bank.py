"""The bank of transformed training images: what is drawn when, what a resumed training finds, and what training makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from art_advtransform.bank import TransformBank
from art_advtransform.config import TransformConfig
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import plain_loss
from art_advtransform.training import fit
from tests.models import RECIPE, Spy, global_state_untouched, same_weights, toy, toy_net
from tests.problems import seeded


class CountingTransform(LLPGDTransform):
    """g that counts its images."""

    images = 0

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        self.images += len(x)
        return super().forward(x, start)


def transform(config: TransformConfig | None = None, seed: int = 9) -> CountingTransform:
    return CountingTransform(toy_net(5), config or TransformConfig(max_iter=3), generator=seeded(seed))


def test_images_are_g_of_a_draw_rounded_to_half_precision() -> None:
    g, x = transform(TransformConfig(max_iter=3, random_start=False)), toy().x
    with global_state_untouched():
        images = TransformBank(g, x, 1)(0)
    assert images.dtype == torch.float16
    expected = g(x, torch.zeros_like(x))
    assert not torch.equal(expected, x)
    torch.testing.assert_close(images.float(), expected.detach(), rtol=0, atol=2**-11)


def test_a_draw_lasts_redraw_every_epochs() -> None:
    g = transform()
    bank = TransformBank(g, toy().x, 3)
    first = [bank(epoch).clone() for epoch in range(3)]
    assert all(torch.equal(images, first[0]) for images in first)
    assert g.images == 96
    second = bank(3)
    assert g.images == 192
    assert float((second != first[0]).float().mean()) > 0.9


def test_draws_depend_on_seed_and_number_alone() -> None:
    x = toy().x
    late = TransformBank(transform(seed=1), x, 2, seed=4)(5)
    torch.manual_seed(3)
    bank = TransformBank(transform(seed=2), x, 1, seed=4)
    assert not torch.equal(bank(1), late)
    assert torch.equal(bank(2), late)
    assert not torch.equal(TransformBank(transform(), x, 1, seed=5)(2), late)


def test_images_do_not_share_a_draw() -> None:
    x = toy(1).x.expand(700, -1, -1, -1)  # beyond a chunk
    images = TransformBank(transform(), x, 1)(0)
    assert len(images.flatten(1).unique(dim=0)) == 700


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    TransformBank(transform(), toy(1200).x, 1, on_progress=lambda *done: seen.append(done))(0)
    assert seen == [(500, 1200), (1000, 1200), (1200, 1200)]


@pytest.mark.parametrize("redraw_every", [0, -1])
def test_bad_redraw_every(redraw_every: int) -> None:
    with pytest.raises(ValueError, match=f"expected redraw_every >= 1, got {redraw_every}"):
        TransformBank(transform(), toy().x, redraw_every)


# ---- on file


def test_a_resumed_training_reads_its_draw(tmp_path: Path) -> None:
    x, path = toy().x, tmp_path / "new" / "bank.safetensors"
    expected = TransformBank(transform(), x, 2, path=path)(2)
    assert [p.name for p in path.parent.iterdir()] == ["bank.safetensors"]
    g = transform()
    bank = TransformBank(g, x, 2, path=path)
    assert torch.equal(bank(3), expected)
    assert g.images == 0
    bank(4)
    assert g.images == 96
    assert torch.equal(load_file(path)["g"], bank(5))
    bank.close()
    assert not path.exists()
    bank.close()


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
def test_a_damaged_file_is_drawn_again(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bank.safetensors"
    expected = TransformBank(transform(), toy().x, 2, path=path)(0)
    path.write_bytes(content)
    assert torch.equal(TransformBank(transform(), toy().x, 2, path=path)(0), expected)
    assert "damaged bank" in caplog.text
    assert torch.equal(load_file(path)["g"], expected)


def test_another_draw_or_other_images_on_file_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    TransformBank(transform(), toy().x, 1, path=path)(1)
    expected = TransformBank(transform(), toy().x, 1)(0)
    assert torch.equal(TransformBank(transform(), toy().x, 1, path=path)(0), expected)
    assert TransformBank(transform(), toy(32).x, 1, path=path)(0).shape == (32, 2, 6, 6)
    # of the same shape, and of another seed
    TransformBank(transform(), toy().x, 1, path=path)(0)
    others, other_seed = TransformBank(transform(), 1 - toy().x, 1), TransformBank(transform(), toy().x, 1, 5)
    assert torch.equal(TransformBank(transform(), 1 - toy().x, 1, path=path)(0), others(0))
    assert torch.equal(TransformBank(transform(), toy().x, 1, 5, path=path)(0), other_seed(0))
    assert not torch.equal(other_seed(0), expected)


# ---- in training


def test_training_sees_the_images_of_its_epoch() -> None:
    spy = Spy(toy_net())
    numbers: list[int] = []

    def images(epoch: int) -> Tensor:
        numbers.append(epoch)
        return torch.full((96, 2, 6, 6), float(epoch + 1), dtype=torch.float16)

    fit(spy, toy(), plain_loss, RECIPE, images=images)
    assert numbers == [0, 1, 2, 3]
    assert [float(x.amax()) for x in spy.seen] == [epoch + 1.0 for epoch in range(4) for _ in range(3)]
    assert {x.dtype for x in spy.seen} == {torch.float32}


def test_killed_and_resumed_with_a_bank(tmp_path: Path) -> None:
    def run(net: nn.Module, folder: Path, kill: bool = False) -> int:
        g = transform()

        def on_epoch(done: int, total: int, loss: float) -> None:
            if kill and done == 3:
                raise KeyboardInterrupt

        bank = TransformBank(g, toy().x, 2, path=folder / "bank.safetensors")
        fit(net, toy(), plain_loss, RECIPE, images=bank, checkpoint=folder / "net.safetensors", on_epoch=on_epoch)
        return g.images

    whole, resumed = toy_net(), toy_net()
    assert run(whole, tmp_path / "whole") == 2 * 96
    with pytest.raises(KeyboardInterrupt):
        run(resumed, tmp_path / "killed", kill=True)
    assert run(resumed, tmp_path / "killed") == 0  # the second draw is still there
    assert same_weights(whole, resumed)
