"""What single attacks of the catalogue promise: closed forms, starts, steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks import adaptive
from art_advtransform.attacks.adaptive import average_start, momentum_pgd
from art_advtransform.attacks.art_attacks import (
    bpda_identity,
)
from art_advtransform.attacks.base import Target
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.transform import random_start
from tests.models import defended, digits_target, undefended
from tests.problems import images, linear_net, linear_two_classes, weights

# the attacks of the presets with few steps


@pytest.mark.parametrize("max_iter", [1, 6])
def test_momentum_pgd_on_a_linear_net(max_iter: int) -> None:
    # the gradient's sign never changes: x_t is known, and so is the mean of the last half of the iterates
    w = linear_two_classes((1, 4, 4)).w
    net = linear_net(torch.stack([w.flatten(), torch.zeros(16)]))
    x, eps = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64), 0.1
    target = Target(DefendedModel(net, None), x, torch.tensor([0, 1]), ThreatModel(eps), 0)
    attacked = momentum_pgd(max_iter).run(target)
    away = -torch.sign(w) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    d, iterates = random_start(x, eps, target.generator(0)), []
    for t in range(max_iter):
        d = (d + eps / 8 * (1 - 0.8 * t / max_iter) * away).clamp(-eps, eps)
        iterates.append(x + d)
    torch.testing.assert_close(attacked, torch.stack(iterates[max_iter // 2 :]).mean(0))


@pytest.mark.parametrize(("momentum", "ways"), [(None, 1 + 0.6), (0.5, 1 + 0.6), (0.2, 1 - 0.6), (0.0, 1 - 0.6)])
def test_momentum_goes_on_up_against_a_smaller_direction_down(
    momentum: float | None, ways: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, eps, directions = torch.full((2, 1, 2, 2), 0.5), 0.1, iter([3.0, -1.0])
    monkeypatch.setattr(adaptive, "_direction", lambda model, x_adv, y: torch.full_like(x_adv, next(directions)))
    model = DefendedModel(linear_net(torch.zeros(2, 4)), None)
    target = Target(model, x, torch.tensor([0, 1]), ThreatModel(eps), 0, best=x, alive=torch.ones(2))
    attack = momentum_pgd(2) if momentum is None else momentum_pgd(2, momentum=momentum)
    attacked = replace(attack, continues=True).run(target)
    torch.testing.assert_close(attacked, x + eps / 8 * ways)  # the second step is 0.6 times the first


class Root(torch.nn.Module):
    """Slopes that fall as images get brighter; that at black has no bound."""

    def forward(self, x: Tensor) -> Tensor:
        root = x.flatten(1).sum(1).sqrt()
        return torch.stack([root, -root], 1)


def test_momentum_adds_up_directions_of_one_size() -> None:
    x = torch.tensor([0.0, 0.1, 0.9]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    found = adaptive._direction(Root(), x, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.0, -1.0, 1.0]).view(3, 1, 1, 1).expand_as(x))


@pytest.mark.parametrize(("nb_draws", "max_iter"), [(64, 3), (256, 7)])
def test_the_average_start_climbs_f_a_from_the_mean_of_g(nb_draws: int, max_iter: int) -> None:
    # five steps, c = 5 eps / 10 of g's: E d = -eps + (2 eps - c)^2 / 4 eps along the corner, as in test_expectation
    f_b, x, eps, c = linear_two_classes((1, 4, 4), bias=99.0), images(3, (1, 4, 4)), 0.03, 0.1
    moved = 0.2 - (2 * 0.2 - c) ** 2 / (4 * 0.2)
    spread = math.sqrt((2 * 0.2 - c) ** 3 / (6 * 0.2) - (0.2 - moved) ** 2)
    w, y = weights(2), torch.tensor([0, 1, 0])
    model = DefendedModel(linear_net(w), LLPGDTransform(f_b.net, TransformConfig(max_iter=5))).eval()
    attacked = average_start(max_iter, nb_draws).run(Target(model, x, y, ThreatModel(eps), 0))
    up = torch.sign(w[1 - y] - w[y]).view_as(x)
    noise = attacked - (x - moved * torch.sign(f_b.w) + max_iter * eps / 10 * up)
    # as much as of so many draws, pixel by pixel
    assert float(noise.std()) == pytest.approx(spread / math.sqrt(nb_draws), rel=0.4)
    assert abs(float(noise.mean())) < 4 * spread / math.sqrt(nb_draws * noise.numel())


def test_momentum_pgd_along_another_rule_needs_a_transform() -> None:
    assert momentum_pgd(2, "tanh").view.needs_transform
    assert not momentum_pgd(2).view.needs_transform


def test_gen_attack_targets_the_runner_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from foolbox.attacks.gen_attack import GenAttack

    seen: list[Any] = []

    def run(self: Any, model: Any, x: Tensor, criterion: Any, **options: Any) -> tuple[None, Tensor, None]:
        seen.append(criterion.target_classes.raw)
        return None, x, None

    monkeypatch.setattr(GenAttack, "__call__", run)
    target = digits_target(undefended(), 40)
    gen_attack(1, 2).run(target)
    with torch.no_grad():
        order = target.defended(target.x).argsort(1, descending=True)
    expected = torch.where(order[:, 0] == target.y, order[:, 1], order[:, 0])
    assert torch.equal(seen[0], expected)
    assert not bool((seen[0] == target.y).any())


@pytest.mark.parametrize("n", [1, 4])
def test_gen_attack_does_not_stop_at_a_lucky_draw(n: int) -> None:
    # as Foolbox has it, a batch ends at the first step where the fittest of each was in the class aimed at, in one draw
    target, attack = digits_target(defended(), n), gen_attack(12, 4)
    attacked = attack.run(target)
    runner_up, last = 10, 1
    assert target.queries.forward == n * (12 * 4 + runner_up + last)
    assert attacked.shape == target.x.shape
    assert not torch.equal(attacked, target.x)
    bare = digits_target(undefended(), n)
    bare.threat = ThreatModel(0.5)
    attack.run(bare)
    assert bare.queries.forward < n * (12 * 4 + runner_up + last)  # nothing draws: there a hit is one


def hop_skip_jump_starts(target: Target, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What HopSkipJump is called with: (images, labels, starting points)."""
    from foolbox.attacks.hop_skip_jump import HopSkipJumpAttack

    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self: Any, model: Any, x: Tensor, y: Tensor, starting_points: Tensor, **options: Any) -> Any:
        taken_for = model(starting_points).argmax(1)
        assert torch.equal(taken_for, model(starting_points).argmax(1))  # the draw is frozen
        assert not bool((taken_for == y).any())
        seen.append((x, y, starting_points))
        return torch.zeros_like(x), None, None

    monkeypatch.setattr(HopSkipJumpAttack, "__call__", run)
    attacked = hop_skip_jump(1, 10, 20).run(target)
    attacked_rows = (attacked == 0).flatten(1).all(1)
    assert torch.equal(target.x[attacked_rows], torch.cat([target.x[:0], *(x for x, _, _ in seen)]))
    assert torch.equal(attacked[~attacked_rows], target.x[~attacked_rows])
    return seen


def test_hop_skip_jump_starts_from_images_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    target = digits_target(defended(), 20)
    ((x, _, starts),) = hop_skip_jump_starts(target, monkeypatch)
    assert len(x) == 20
    pool = {tuple(image.flatten().tolist()) for image in target.x}
    assert all(tuple(image.flatten().tolist()) in pool for image in starts)


def test_hop_skip_jump_starts_from_noise_where_no_other_image_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    target = digits_target(undefended(), 20)
    # nothing but images of class k to start from: those of class k start from noise
    k = int(target.y[0])
    target.others = target.x[target.y == k]
    ((_, labels, starts),) = hop_skip_jump_starts(target, monkeypatch)
    assert torch.equal(labels, target.y)
    pool = {tuple(image.flatten().tolist()) for image in target.x}
    from_pool = [tuple(image.flatten().tolist()) in pool for image in starts]
    assert from_pool == (labels != k).tolist()
    assert bool((target.bare()(starts[labels == k]).argmax(1) != k).all())


class Constant(torch.nn.Module):
    """Takes everything for class 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10).index_fill(1, torch.tensor([0]), 1.0) + 0 * x.mean((1, 2, 3))[:, None]


def test_hop_skip_jump_leaves_what_is_wrong_already_alone_and_fails_without_a_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = digits_target(DefendedModel(Constant(), None), 20, surrogate=False)
    target.y = target.y.clamp_min(1)
    assert hop_skip_jump_starts(target, monkeypatch) == []  # nor is anything changed
    target.y[3] = 0
    with pytest.raises(RuntimeError, match="no image has a start"):
        hop_skip_jump(1, 10, 20).run(target)


class OfItsBatch(torch.nn.Module):
    """Takes what is bright for class 1, and for that it must be brighter in small batches."""

    def __init__(self, bright: float, brighter: float) -> None:
        super().__init__()
        self.bright, self.brighter = bright, brighter

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3))
        classes = (brightness > (self.brighter if len(x) <= 10 else self.bright)).long()
        return torch.nn.functional.one_hot(classes, 10) + 0 * brightness[:, None]


def test_hop_skip_jump_drops_starts_that_another_batch_takes_for_the_image_s_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = digits_target(undefended(), 20, surrogate=False)
    brightness = target.x.mean((1, 2, 3))
    bright, brighter = (float(v) for v in brightness.quantile(torch.tensor([0.48, 0.75])))
    target.defended = DefendedModel(OfItsBatch(bright, brighter), None)
    target.y = torch.zeros_like(target.y)
    ((x, _, starts),) = hop_skip_jump_starts(target, monkeypatch)
    assert 0 < len(x) < 10 == int((brightness <= bright).sum())
    assert bool((x.mean((1, 2, 3)) <= bright).all())
    assert bool((starts.mean((1, 2, 3)) > brighter).all())


def test_pgd_steps_and_start_of_art(monkeypatch: pytest.MonkeyPatch) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    seen: list[dict[str, Any]] = []
    original = ProjectedGradientDescent.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        seen.append(options)
        original(self, *arguments, **options)

    monkeypatch.setattr(ProjectedGradientDescent, "__init__", init)
    target = digits_target(undefended())
    for max_iter in (5, 100):
        bpda_identity(max_iter, 1).run(target)
    eps = target.threat.eps
    assert [o["eps_step"] for o in seen] == pytest.approx([eps / 2, eps / 10])
    assert [(o["eps"], o["max_iter"], o["num_random_init"]) for o in seen] == [(eps, 5, 1), (eps, 100, 1)]
