"""The training loop: learning rate, augmentation, order of the images, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.datasets import ImageSet
from art_advtransform.losses import plain_loss
from art_advtransform.training import Recipe, augment, fit
from tests.models import RECIPE, global_state_untouched, same_weights, toy, toy_net
from tests.problems import seeded

PLAIN = Recipe(nb_epochs=3, batch_size=4, learning_rate=0.1, momentum=0.0, crop_padding=0, flip=False)


# ---- the learning rate


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0), (0.5, 0.025), (1, 0.05), (2, 0.1), (4, 0.0853553), (6, 0.05), (10, 0)]
)
def test_warmup_then_cosine(epoch: float, expected: float) -> None:
    recipe = Recipe(nb_epochs=10, learning_rate=0.1, decay="cosine", warmup=2)
    assert recipe.learning_rate_at(epoch) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("epoch", "expected"), [(0.25, 0.05), (0.5, 0.1), (1, 0.1), (79.9, 0.1)])
def test_warmup_then_constant(epoch: float, expected: float) -> None:
    assert Recipe(warmup=0.5, nb_epochs=80).learning_rate_at(epoch) == pytest.approx(expected)


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))


def weight_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    assert isinstance(model, OneWeight)
    return model.w * 1.0


@pytest.mark.parametrize("changes", [{}, {"decay": "cosine"}, {"decay": "cosine", "warmup": 1.5}, {"warmup": 2}])
def test_every_step_has_its_learning_rate(changes: dict[str, Any]) -> None:
    # d loss / d w = 1, so that w ends at minus the sum of the learning rates
    recipe, model = replace(PLAIN, **changes), OneWeight()
    fit(model, ImageSet("x", torch.rand(11, 1, 2, 2), torch.zeros(11).long(), ()), weight_loss, recipe)
    expected = sum(recipe.learning_rate_at(epoch + i / 2) for epoch in range(3) for i in range(2))
    assert float(model.w.detach()) == pytest.approx(-expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nb_epochs": -1}, "nb_epochs >= 0"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"crop_padding": -1}, "crop_padding >= 0"),
        ({"seed": -1}, "seed >= 0"),
        ({"decay": "linear"}, "unknown decay 'linear'; known: constant, cosine"),
        ({"momentum": -0.1}, "momentum >= 0"),
        ({"weight_decay": float("nan")}, "weight_decay >= 0"),
        ({"warmup": -1}, "warmup in"),
        ({"warmup": 80}, r"warmup in \[0, nb_epochs=80\)"),
    ],
)
def test_bad_recipes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


# ---- augmentation


def corners(image: Tensor, augmented: Tensor, padding: int) -> list[tuple[int, int]]:
    """Corners of the crops of the padded image that ``augmented`` equals."""
    padded, (height, width) = F.pad(image, [padding] * 4), image.shape[1:]
    return [
        (i, j)
        for i in range(2 * padding + 1)
        for j in range(2 * padding + 1)
        if torch.equal(padded[:, i : i + height, j : j + width], augmented)
    ]


def test_nothing_to_augment() -> None:
    x = torch.rand(5, 3, 4, 6, generator=seeded(0))
    assert torch.equal(augment(x, replace(RECIPE, crop_padding=0, flip=False), seeded(1)), x)


def test_crops_are_drawn_for_every_image() -> None:
    x = torch.rand(200, 3, 4, 6, generator=seeded(0))
    cropped = augment(x, replace(RECIPE, crop_padding=2, flip=False), seeded(1))
    found = [corners(image, crop, 2) for image, crop in zip(x, cropped, strict=True)]
    assert all(len(places) == 1 for places in found)  # all channels from one and the same place
    assert {places[0] for places in found} == {(i, j) for i in range(5) for j in range(5)}


def test_flips_are_drawn_for_every_image() -> None:
    x = torch.rand(200, 3, 4, 6, generator=seeded(0))
    flipped = augment(x, replace(RECIPE, crop_padding=0, flip=True), seeded(1))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 70 <= sum(mirrored) <= 130


def test_crops_and_flips_together() -> None:
    x = torch.rand(60, 1, 4, 4, generator=seeded(0))
    augmented = augment(x, replace(RECIPE, crop_padding=1, flip=True), seeded(1))
    straight = [len(corners(a, b, 1)) for a, b in zip(x, augmented, strict=True)]
    mirrored = [len(corners(a.flip(2), b, 1)) for a, b in zip(x, augmented, strict=True)]
    assert {(s, m) for s, m in zip(straight, mirrored, strict=True)} == {(1, 0), (0, 1)}


def test_augmentation_follows_its_generator() -> None:
    x = torch.rand(20, 2, 6, 6, generator=seeded(0))
    with global_state_untouched():
        first = augment(x, RECIPE, seeded(1))
    assert torch.equal(first, augment(x, RECIPE, seeded(1)))
    assert not torch.equal(first, augment(x, RECIPE, seeded(2)))


# ---- the loop


def test_fit_learns() -> None:
    net, data = toy_net(), toy()
    epochs: list[tuple[int, int, float]] = []
    with global_state_untouched():
        losses = fit(
            net, data, plain_loss, replace(RECIPE, nb_epochs=8), on_epoch=lambda *report: epochs.append(report)
        )
    assert losses[-1] < 0.3 * losses[0]
    assert epochs == [(k + 1, 8, loss) for k, loss in enumerate(losses)]
    assert not any(module.training for module in net.modules())
    unseen = toy(seed=1)
    with torch.no_grad():
        assert float((net(unseen.x).argmax(1) == unseen.y).float().mean()) > 0.95


def test_fit_follows_its_seed_alone() -> None:
    nets = [toy_net() for _ in range(3)]
    for i, (net, seed) in enumerate(zip(nets, (3, 3, 4), strict=True)):
        torch.manual_seed(i)  # dropout draws from global state, which must not matter
        fit(net, toy(), plain_loss, replace(RECIPE, nb_epochs=1, seed=seed))
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


def test_each_epoch_sees_each_image_once_in_another_order() -> None:
    seen: list[list[int]] = []

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        assert torch.equal(x[:, 0, 0, 0], y.float())  # images and labels stay together
        assert model.training
        seen.append(y.tolist())
        return weight_loss(model, x, y, generator)

    labels = torch.arange(10)
    data = ImageSet("x", labels.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels, ())
    fit(OneWeight(), data, loss, PLAIN)
    epochs = [[*seen[i], *seen[i + 1]] for i in (0, 2, 4)]
    assert len(seen) == 6  # the remainder of two is left out
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert {image for epoch in epochs for image in epoch} == set(range(10))


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="at least batch_size=32 images, got 31"):
        fit(toy_net(), toy(31), plain_loss, RECIPE)


def test_a_diverging_loss_is_an_error_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(FloatingPointError, match="no longer finite in epoch 1: lower the learning rate"):
        fit(linear, toy(), plain_loss, Recipe(2, 32, learning_rate=1e38), checkpoint=tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_diverges_later_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path, batches = tmp_path / "net.safetensors", 0

    def loss(*arguments: Any) -> Tensor:
        nonlocal batches
        batches += 1
        return plain_loss(*arguments) * (float("nan") if batches > 6 else 1.0)

    with pytest.raises(FloatingPointError, match="no longer finite in epoch 3"):
        fit(toy_net(), toy(), loss, RECIPE, checkpoint=path)
    resumed, expected = toy_net(seed=1), toy_net()
    fit(resumed, toy(), plain_loss, RECIPE, checkpoint=path)
    fit(expected, toy(), plain_loss, RECIPE)
    assert same_weights(resumed, expected)


def test_weights_that_the_last_step_breaks_are_not_kept(tmp_path: Path) -> None:
    path, batches = tmp_path / "net.safetensors", 0

    def loss(model: nn.Module, *arguments: Any) -> Tensor:
        nonlocal batches
        batches += 1
        found = plain_loss(model, *arguments)
        if batches == 6:  # the last of the second epoch: a loss that is finite, with a gradient that is not
            found = found + sum((p * 0).sum().sqrt() for p in model.parameters())
        assert bool(found.isfinite())
        return found

    with pytest.raises(FloatingPointError, match=r"weight \S+ is no longer finite in epoch 2"):
        fit(toy_net(), toy(), loss, RECIPE, checkpoint=path)
    resumed, expected = toy_net(seed=1), toy_net()
    fit(resumed, toy(), plain_loss, RECIPE, checkpoint=path)
    fit(expected, toy(), plain_loss, RECIPE)
    assert same_weights(resumed, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is for GPUs")
def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a GPU for fp16: use bf16 or no"):
        fit(toy_net(), toy(), plain_loss, RECIPE, checkpoint=tmp_path / "c.safetensors", mixed_precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_on_the_net() -> None:
    net = toy_net()
    fit(net, toy(), plain_loss, RECIPE)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert "forward" not in vars(net)


# ---- accelerate


def test_bfloat16(fresh_accelerate: None) -> None:
    dtypes: set[torch.dtype] = set()

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        dtypes.update(parameter.dtype for parameter in model.parameters())
        return plain_loss(model, x, y, generator)

    inner = toy_net()
    assert isinstance(inner, nn.Sequential)
    inner[0].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    losses = fit(inner, toy(), loss, RECIPE, mixed_precision="bf16")
    assert dtypes == {torch.float32, torch.bfloat16}  # weights, activations
    assert losses[-1] < losses[0]
    assert inner(toy().x).dtype == torch.float32  # and autocast is off again
    assert "forward" not in vars(inner)
    other = toy_net()
    AcceleratorState._reset_state(reset_partial_state=True)
    fit(other, toy(), plain_loss, RECIPE)
    assert not same_weights(inner, other)


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="unknown mixed_precision 'fp8'; known: no, bf16, fp16"):
        fit(toy_net(), toy(), plain_loss, RECIPE, mixed_precision="fp8")  # type: ignore[arg-type]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    losses = fit(toy_net(), toy(), plain_loss, RECIPE, log_dir=tmp_path)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events)).Reload()
    assert [event.step for event in log.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in log.Scalars("loss")] == pytest.approx(losses)
    assert log.Scalars("learning_rate")[-1].value == 0
