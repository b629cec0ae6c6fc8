"""The imitation h(x, D) of g_D(x) (eq. 6): what it learns on images it has not seen, its checkpoint, and its use."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.base import Target
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet
from art_advtransform.defended import DefendedModel
from art_advtransform.gradients import Reparameterized
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN
from art_advtransform.training import Recipe, fit_surrogate
from art_advtransform.transform import random_start
from tests.models import same_weights, toy, toy_net
from tests.problems import seeded

RECIPE = Recipe(12, 32, 0.1, decay="cosine", crop_padding=0, flip=False)
SHORT = Recipe(4, 32, 0.05, decay="cosine", crop_padding=0, flip=False)


def g_of(f_b: nn.Module, config: TransformConfig | None = None) -> LLPGDTransform:
    return LLPGDTransform(f_b, config, generator=seeded(9))


def surrogate(recipe: Recipe = SHORT, checkpoint: Path | None = None, stop_after: int | None = None) -> FCN:
    def on_epoch(done: int, total: int, loss: float) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    return fit_surrogate(g_of(toy_net(5)), toy(), recipe, width=6, depth=2, checkpoint=checkpoint, on_epoch=on_epoch)


@pytest.fixture(scope="module")
def imitation() -> tuple[LLPGDTransform, FCN]:
    """g of a small convolutional net, and h fitted to it."""
    g = g_of(toy_net(5))
    return g, fit_surrogate(g, toy(384), RECIPE, width=16, depth=3)


def squared_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean()) / 0.2**2


def test_h_imitates_g_on_images_it_has_not_seen(imitation: tuple[LLPGDTransform, FCN]) -> None:
    g, h = imitation
    x = toy(96, seed=8).x
    start, another = random_start(x, 0.2, seeded(1)), random_start(x, 0.2, seeded(2))
    with torch.no_grad():
        value, imitated, elsewhere = g(x, start), h(x, start), h(x, another)
    identity = squared_error(x, value)
    assert identity > 0.5
    assert squared_error(imitated, value) < 0.5 * identity
    # better than what can be known without the image
    assert squared_error(imitated, value) < 0.8 * squared_error(x + (value - x).mean(0), value)
    # and it is this very draw that is imitated
    assert squared_error(imitated, value) < 0.75 * squared_error(elsewhere, value)


@pytest.mark.parametrize("eps", [0.2, 0.05])
def test_h_stays_in_the_ball_of_g(eps: float) -> None:
    g = g_of(toy_net(5), TransformConfig(eps=eps, max_iter=3))
    h = fit_surrogate(g, toy(), SHORT, width=6, depth=2)
    assert h.eps == eps
    x = toy(24, seed=8).x
    start = random_start(x, eps, seeded(1))
    with torch.no_grad():
        moved = (h(x, start) - x).abs()
        assert 0.1 * eps < float(moved.max()) <= eps + 1e-6
        list(h.parameters())[-2].mul_(1000)  # the last kernels: whatever it has learnt
        assert float((h(x, start) - x).abs().max()) == pytest.approx(eps, abs=1e-6)


def test_no_random_start_is_imitated_without_one() -> None:
    g = g_of(toy_net(5), TransformConfig(random_start=False))
    x, zero = toy(48, seed=8).x, torch.zeros(48, 2, 6, 6)
    h = fit_surrogate(g, toy(192), RECIPE, width=8, depth=2)
    with torch.no_grad():
        value = g(x)
        assert squared_error(h(x, zero), value) < 0.65 * squared_error(x, value)


# ---- how it is fitted


def test_f_b_is_untouched() -> None:
    f_b = toy_net(5)
    g = g_of(f_b)
    f_b_before, copy_before, generator = copy.deepcopy(f_b), copy.deepcopy(g.model), g.generator.get_state()
    h = fit_surrogate(g, toy(), SHORT, width=6, depth=2)
    assert same_weights(f_b, f_b_before)
    assert same_weights(g.model, copy_before)
    assert all(p.grad is None for p in (*f_b.parameters(), *g.parameters()))
    assert torch.equal(g.generator.get_state(), generator)  # its draws are the training's own
    assert not h.training
    assert [p.shape[:2] for p in h.parameters() if p.ndim == 4] == [(6, 4), (6, 6), (2, 6)]


def test_the_recipe_s_seed_decides() -> None:
    torch.manual_seed(1)
    first = surrogate()
    torch.manual_seed(2)
    assert same_weights(surrogate(), first)
    another = surrogate(Recipe(4, 32, 0.05, decay="cosine", crop_padding=0, flip=False, seed=1))
    assert not same_weights(another, first)


@pytest.mark.parametrize("epoch", [1, 3])
def test_resumed_from_the_checkpoint(epoch: int, tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    with pytest.raises(KeyboardInterrupt):
        surrogate(checkpoint=path, stop_after=epoch)
    # the last of four epochs can't be reached again by the run that stops there
    with pytest.raises(KeyboardInterrupt):
        surrogate(checkpoint=path, stop_after=epoch + 1)
    assert same_weights(surrogate(checkpoint=path, stop_after=epoch), surrogate())


def test_checkpoint_of_another_surrogate(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    surrogate(checkpoint=path)
    with pytest.raises(ValueError, match="of another network"):
        fit_surrogate(g_of(toy_net(5)), toy(), SHORT, width=7, depth=2, checkpoint=path)


def test_a_recipe_is_there_if_none_is_given() -> None:
    seen: list[int] = []

    def on_epoch(done: int, total: int, loss: float) -> None:
        seen.append(total)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_surrogate(g_of(toy_net(5)), toy(128), width=2, depth=1, on_epoch=on_epoch)
    assert seen == [20]


def test_too_few_images() -> None:
    few = ImageSet("few", toy(8).x, toy(8).y, ())
    with pytest.raises(ValueError, match="expected at least batch_size=32 images, got 8"):
        fit_surrogate(g_of(toy_net(5)), few, SHORT)


# ---- what it is for


def test_h_is_the_gradient_of_g(imitation: tuple[LLPGDTransform, FCN]) -> None:
    g, h = imitation
    through_h = g.with_gradient(Reparameterized(h))
    h.zero_grad()  # what its own training left
    x = toy(6, seed=8).x.requires_grad_()
    start, v = random_start(x, 0.2, seeded(1)), torch.randn(x.shape, generator=seeded(2))
    value = through_h(x, start)
    assert torch.equal(value, g(x.detach(), start))  # not h's
    (gradient,) = torch.autograd.grad(value, x, v)
    (expected,) = torch.autograd.grad(h(x, start), x, v)
    torch.testing.assert_close(gradient, expected)
    assert float((gradient - v).abs().mean()) > 0.01
    assert all(p.grad is None for p in h.parameters())


def test_an_attack_through_h(imitation: tuple[LLPGDTransform, FCN]) -> None:
    g, h = imitation
    data = toy(6, seed=8)
    results = []
    for rule in (Reparameterized(h), "identity"):
        target = Target(DefendedModel(toy_net(), g), data.x, data.y, ThreatModel(eps=0.1), 0)
        attack = momentum_pgd(4, rule)
        assert attack.missing(target) is None
        attacked = attack.run(target)
        assert 0 < float((attacked - data.x).abs().max()) <= 0.1 + 1e-6
        results.append(attacked)
    assert not torch.equal(*results)
