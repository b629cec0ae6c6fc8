"""Steering and evolution strategies, where the gradient of f_a at g(x) shows the wrong way; and the student."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.climbing import Direction, Keeper, climb, margin
from art_advtransform.attacks.evolution import evolution_gradient, evolution_strategy
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.steering import steered_pgd, steered_to, steering_gradient
from art_advtransform.attacks.student import expected_probabilities, student, train_student
from art_advtransform.config import Objective, ThreatModel, TransformConfig
from art_advtransform.counting import SCORING, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.gradients import Reparameterized
from art_advtransform.layer import LLPGDTransform
from tests.models import defended, digits_target
from tests.problems import images, linear_net, linear_two_classes, seeded, weights

EPS, NB_PIXELS = 0.05, 16
# long enough for every D to end in the corner: g(x) = x - 0.2 sign(w) sign(s(x))
CONFIG = TransformConfig(max_iter=21)


def blind_spot() -> Target:
    """f_a rises along sign(w), and jumps where s(x), a little above zero, changes its sign: against sign(w).

    f_a(z)_1 - f_a(z)_0 = <sign w, z> - c. Label 0 is right: at x the value is 1 below c, behind the jump 5.4 above. Along its slope
    the budget allows for 0.8.
    """
    problem = linear_two_classes((1, 4, 4))
    sign, x = torch.sign(problem.w), torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    bias = 0.05 - float((x * problem.w).sum())
    f_b = linear_two_classes((1, 4, 4), bias=bias).net
    c = float((sign * x).sum()) - 0.2 * NB_PIXELS + 1.0
    f_a = linear_net(torch.stack([torch.zeros(NB_PIXELS, dtype=torch.float64), sign.flatten()]), torch.tensor([c, 0.0]))
    model, y = DefendedModel(f_a, LLPGDTransform(f_b, CONFIG)), torch.tensor([0])
    return Target(model, x, y, ThreatModel(EPS), 0, best=x, alive=torch.ones(1))


def accuracy(target: Target, attack: Attack) -> float:
    attacked = target.project(attack.run(target))
    right = predictions(target.defended, attacked, 20, 0, SCORING) == target.y[:, None]
    return float(right.double().mean())


def test_there_the_identity_sees_nothing() -> None:
    target = blind_spot()
    assert float((predictions(target.defended, target.x, 20, 0, SCORING) == 0).double().mean()) == 1.0
    # it goes up the slope, away from the jump
    assert accuracy(target, expectation_pgd(40, 4)) == 1.0


@pytest.mark.parametrize("attack", [steered_pgd(10, 2), evolution_strategy(20, 60, 0.4)], ids=lambda a: a.method)
def test_and_these_do(attack: Attack) -> None:
    assert accuracy(blind_spot(), attack) == 0.0


class SmoothJump(nn.Module):
    """h(x, D) of the g there, with a slope where that jumps."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        problem = linear_two_classes((1, 4, 4))
        s = ((x - 0.5) * problem.w).sum((1, 2, 3), keepdim=True) + 0.05
        return x - 0.2 * torch.sign(problem.w) * torch.tanh(5 * s)


def test_and_so_does_an_attack_through_an_h_that_knows() -> None:
    assert accuracy(blind_spot(), momentum_pgd(10)) == 1.0
    assert accuracy(blind_spot(), momentum_pgd(10, Reparameterized(SmoothJump()))) == 0.0


# ---- steering


def test_steering_gradient_of_a_linear_f_b() -> None:
    w, x = weights(3) / 10, images(4, (1, 4, 4))
    net = linear_net(w)
    logits = net(x).detach()
    for k in range(3):
        others = [j for j in range(3) if j != k]
        steered = torch.full((4,), k)
        found = steering_gradient(net, x, steered)
        for i in range(4):
            j = min(others, key=lambda j: float(logits[i, j]))
            leads = float(logits[i, j] - logits[i, k]) >= 1
            expected = torch.zeros(16, dtype=torch.float64) if leads else w[j] - w[k]
            torch.testing.assert_close(found[i].flatten(), expected)
            opposite = steering_gradient(linear_net(-w), x, steered, "most_likely")
            torch.testing.assert_close(opposite, found)
    each = torch.tensor([2, 0, 1, 2])  # every image its own
    one_by_one = [steering_gradient(net, x[i : i + 1], each[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(steering_gradient(net, x, each), torch.cat(one_by_one))
    assert not bool(steering_gradient(linear_net(1000 * w), x, logits.argmin(1)).any())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("max_iter", [3, 5, 20])
def test_steering_can_bring_a_pixel_from_one_side_of_the_budget_to_the_other(
    max_iter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = blind_spot()
    target.best = target.x - EPS
    ways: list[Tensor] = []

    def always_up(keeper: Keeper, begin: Tensor, direction: Direction, nb_steps: int, **more: Any) -> Tensor:
        ways.append(climb(keeper, begin, torch.ones_like, nb_steps, **more))
        return ways[-1]

    monkeypatch.setattr("art_advtransform.attacks.steering.climb", always_up)
    steered_pgd(max_iter, 1).run(target)
    assert len(ways) == 2
    for way in ways:
        torch.testing.assert_close(way, target.x + EPS)


def test_every_class_has_its_turn() -> None:
    target = blind_spot()
    assert target.defended.transform is not None
    seen: list[int] = []
    attack = steered_pgd(1, 1)
    original = steering_gradient

    def spy(f_b: nn.Module, x: Tensor, k: Tensor, objective: Objective) -> Tensor:
        seen.extend(k.tolist())
        return original(f_b, x, k, objective)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_advtransform.attacks.steering.steering_gradient", spy)
        attack.run(target)
    assert seen == [0] * len(target.x) + [1] * len(target.x)


@pytest.mark.parametrize("objective", ["least_likely", "most_likely"])
def test_of_many_classes_those_that_f_b_is_nearest_to_choosing_have_theirs(objective: Objective) -> None:
    w, x = weights(6) / 10, images(5, (1, 4, 4))
    net = linear_net(w)
    ranking = net(x).argsort(1, descending=objective == "most_likely")
    for nb_targets in (1, 3, 5):
        found = torch.stack(steered_to(net, x, nb_targets, objective), 1)
        torch.testing.assert_close(found, ranking[:, :nb_targets])
    assert steered_pgd(2, 1, nb_targets=3).name == f"{steered_pgd(2, 1).name}, 3 classes"
    assert steered_pgd(2, 1, nb_targets=3).cost < steered_pgd(2, 1).cost
    for nb_targets in (6, 10):
        assert [k.tolist() for k in steered_to(net, x, nb_targets, objective)] == [[k] * 5 for k in range(6)]


# ---- evolution strategies


def test_a_linear_net_is_known_from_a_single_pair() -> None:
    w = weights(2)
    model = DefendedModel(linear_net(w / 100), None)
    x, y = images(2, (1, 4, 4)), torch.tensor([0, 1])
    exact = torch.stack([w[1] - w[0], w[0] - w[1]]).view(2, 1, 4, 4) / 100
    torch.testing.assert_close(evolution_gradient(model, x, margin, y, 1, 0.1, seeded(0)), exact)


class Staircase(nn.Module):
    """Logits (0, 3 x + round(1000 w x) / 1000): the derivative is 3 almost everywhere, and the slope 3 + w."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rises = x.flatten(1).sum(1) * 3 + torch.round(1000 * x.flatten(1) @ self.w) / 1000
        return torch.stack([torch.zeros_like(rises), rises], 1)


def test_pairs_see_the_jumps_that_the_derivative_does_not() -> None:
    w = weights(2)[0]
    x, y = images(1, (1, 4, 4)) / 100, torch.tensor([0])
    model = DefendedModel(Staircase(w), None)
    leaf = x.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(margin(model(leaf), y).sum(), leaf)
    torch.testing.assert_close(derivative, torch.full_like(x, 3.0))
    found = evolution_gradient(model, x, margin, y, 8000, 0.01, seeded(0))
    torch.testing.assert_close(found, (3 + w).view(1, 1, 4, 4), rtol=0, atol=0.15 * float(w.norm()))
    assert float((found - derivative).norm()) > 0.8 * float(w.norm())


def test_both_of_a_pair_have_the_same_draw() -> None:
    # f_a(x + D), linear: what D does cancels, and the estimate is that of the net alone
    w = weights(2)
    still = LLPGDTransform(linear_net(torch.zeros(2, 16, dtype=torch.float64)), TransformConfig(max_iter=1))
    x, y = images(2, (1, 4, 4)), torch.tensor([0, 1])
    with_noise, alone = (
        evolution_gradient(DefendedModel(linear_net(w / 100), g), x, margin, y, 5, 0.1, seeded(0))
        for g in (still, None)
    )
    torch.testing.assert_close(with_noise, alone)


def test_a_known_draw_stays_known() -> None:
    target = blind_spot()
    with target.defended.frozen(1):
        model = target.view()
        first, second = (evolution_gradient(model, target.x, margin, target.y, 6, 0.02, seeded(0)) for _ in range(2))
    torch.testing.assert_close(first, second)


# ---- the student


def test_expected_probabilities() -> None:
    target = digits_target(defended(), 3)
    found = expected_probabilities(target.view(), target.x, 400)
    with torch.no_grad():
        other = target.view()(target.x.repeat_interleave(400, 0)).softmax(1).view(3, 400, -1).mean(1)
    torch.testing.assert_close(found, other, rtol=0, atol=0.05)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert target.queries.forward == 2 * 3 * 400
    net = DefendedModel(target.defended.classifier, None).eval()
    torch.testing.assert_close(expected_probabilities(net, target.x, 5), net(target.x).softmax(1).detach())


def test_training_brings_the_student_to_the_answers_and_leaves_the_classifier_alone() -> None:
    target = digits_target(defended(), 30)
    before = copy.deepcopy(target.defended.classifier.state_dict())
    s = copy.deepcopy(target.defended.classifier).eval()
    answers = expected_probabilities(target.view(), target.x, 8)

    def distance() -> float:
        with torch.no_grad():
            return float((s(target.x).softmax(1) - answers).abs().mean())

    begun = distance()
    train_student(s, torch.optim.Adam(s.parameters(), 1e-3), target.x, answers, 30, seeded(0))
    assert distance() < begun / 2
    student(1, 4, 2, 2).run(target)
    after = target.defended.classifier.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_attack_on_it_carries_over() -> None:
    target = digits_target(defended(), 20)
    clean = float((predictions(target.defended, target.x, 10, 0, SCORING) == target.y[:, None]).double().mean())
    assert accuracy(target, student(3, 16, 4, 4)) <= clean - 0.4


@pytest.mark.parametrize(("learns", "left"), [(True, 0.0), (False, 1.0)])
def test_it_goes_where_it_has_learned_to(learns: bool, left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    target = blind_spot()
    begins = copy.deepcopy(target.defended.classifier)  # it sees the slope of f_a
    with torch.no_grad():
        for parameter in begins.parameters():
            parameter.mul_(0.01)  # which few steps can turn round
    target.surrogates = {"undefended": begins}
    if not learns:
        monkeypatch.setattr("art_advtransform.attacks.student.train_student", lambda *_: None)
    assert accuracy(target, student(2, 24, 1, 40)) == left


def test_it_asks_inside_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    target, asked = digits_target(defended(), 3), []

    def spy(model: DefendedModel, x: Tensor, nb_draws: int) -> Tensor:
        asked.append(x)
        return expected_probabilities(model, x, nb_draws)

    monkeypatch.setattr("art_advtransform.attacks.student.expected_probabilities", spy)
    student(3, 6, 2, 1).run(target)
    assert [len(x) for x in asked] == [2 * 18] * 3  # as many elsewhere
    for x in asked:
        changed = x[:18].view(3, 2, 3, *target.x.shape[1:]) - target.x
        assert float(changed.abs().max()) <= target.threat.eps + 1e-6
        assert bool((x >= 0).all() and (x <= 1).all())
    # where it went last is asked about in the next round
    assert not torch.equal(asked[0][3:6], asked[1][3:6])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: student(0), "expected nb_rounds >= 1, got 0"),
        (lambda: student(nb_epochs=0), "expected nb_epochs >= 1, got 0"),
        (lambda: steered_pgd(0), "expected max_iter >= 1, got 0"),
        (lambda: steered_pgd(weight=0.0), "expected weight > 0, got 0.0"),
        (lambda: steered_pgd(nb_targets=0), "expected nb_targets >= 1, got 0"),
        (lambda: evolution_strategy(1, 0), "expected nb_samples >= 1, got 0"),
        (lambda: evolution_strategy(1, 1, -0.1), "expected sigma > 0, got -0.1"),
    ],
)
def test_bad_options(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
