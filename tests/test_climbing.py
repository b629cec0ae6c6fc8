"""The climb, its losses and the iterate that is kept, where the answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import (
    Keeper,
    climb,
    cross_entropy,
    crossing,
    expected_gradient,
    margin,
    nb_looks,
    scaled,
    towards,
)
from art_advtransform.attacks.evolution import evolution_strategy
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.flatness import flat_transfer
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel, Queries
from tests.evaluations import Coin, drifting
from tests.models import defended, digits_target, undefended
from tests.problems import defended_model, images, linear_net, linear_two_classes

EPS = 0.1
W = linear_two_classes((1, 4, 4)).w
LINEAR = DefendedModel(linear_net(torch.stack([W.flatten(), torch.zeros(16)])), None)
X = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
Y = torch.tensor([0, 1])
# the loss rises against W for class 0, along it for class 1
UP = -torch.sign(W) * torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)


def linear_target(best: Tensor | None = None) -> Target:
    return Target(LINEAR, X, Y, ThreatModel(EPS), 0, best=X if best is None else best, alive=torch.ones(2))


# ---- losses


def test_margin_is_capped_where_it_is_won() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0], [0.0, 5.0, 1.0], [2.0, 0.0, 1.5]], requires_grad=True)
    value = margin(logits, torch.tensor([0, 0, 0]))
    assert value.tolist() == [2.0, 2.0, -0.5]
    (gradient,) = torch.autograd.grad(value[1:].sum(), logits)
    assert gradient.tolist() == [[0, 0, 0], [0, 0, 0], [-1, 0, 1]]


def test_towards_takes_the_class_of_the_image_for_all_its_draws() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.25], [1.0, 0.0, 3.5]])
    y = torch.tensor([0, 0, 1, 1])
    assert towards(torch.tensor([1, 2]))(logits, y).tolist() == [1.0, 0.5, 0.25, 2.0]


def test_cross_entropy_is_torch_s_for_each_row() -> None:
    logits, y = images(4, (1, 1, 5)).flatten(1), torch.tensor([0, 4, 2, 2])
    torch.testing.assert_close(cross_entropy(logits, y).mean(), F.cross_entropy(logits, y))


# ---- gradients


def test_the_mean_of_losses_is_differentiated_not_the_loss_of_means() -> None:
    x, y = images(3), torch.tensor([0, 1, 2])
    found = expected_gradient(defended_model(5), x, cross_entropy, y, 4)
    leaf = x.clone().requires_grad_()
    logits = defended_model(5)(leaf.repeat_interleave(4, 0))  # the same draws
    losses = F.cross_entropy(logits, y.repeat_interleave(4), reduction="none").view(3, 4)
    (expected,) = torch.autograd.grad(losses.mean(1).sum(), leaf)
    torch.testing.assert_close(found, expected)
    leaf = x.clone().requires_grad_()
    of_means = F.cross_entropy(defended_model(5)(leaf.repeat_interleave(4, 0)).view(3, 4, -1).mean(1), y)
    (other,) = torch.autograd.grad(3 * of_means, leaf)
    assert float((found - other).abs().max()) > 1e-4


def test_scaled() -> None:
    d = torch.tensor([[1.0, -3.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert scaled(d).flatten(1).tolist() == [[0.5, -1.5], [0.0, 0.0]]


# ---- the climb


@pytest.mark.parametrize("max_iter", [1, 3, 8, 21])
def test_a_climb_on_a_linear_net(max_iter: int) -> None:
    target = linear_target()
    keeper = Keeper(target)
    looked: list[Tensor] = []
    look = keeper.look

    def spy(x_adv: Tensor) -> None:
        looked.append(x_adv)
        look(x_adv)

    keeper.look = spy  # type: ignore[method-assign]
    last = climb(keeper, X, lambda x: UP.expand_as(x), max_iter, eps_steps=(1 / 4, 1 / 8))
    d = torch.zeros_like(X)
    for t in range(max_iter):
        d = (d + EPS * (1 / 4 - 1 / 8 * t / max(max_iter - 1, 1)) * UP).clamp(-EPS, EPS)
    torch.testing.assert_close(last, X + d)
    # every fifth step at most, the last always
    assert len(looked) == {1: 1, 3: 1, 8: 2, 21: 5}[max_iter]
    assert torch.equal(looked[-1], last)
    assert nb_looks(4000) == 8
    # a fifth of what the climb costs in all, at most, but the end is always looked at
    assert [nb_looks(200, 1), nb_looks(20, 10), nb_looks(20, 40), nb_looks(5, 4), nb_looks(200, 1, 1)] == [
        3,
        3,
        4,
        1,
        8,
    ]
    looked.clear()
    assert torch.equal(climb(keeper, X, lambda x: UP.expand_as(x), max_iter, eps_steps=(1 / 4, 1 / 8), looks=0), last)
    assert looked == []


def test_momenta_are_averaged() -> None:
    directions = [
        torch.tensor(d, dtype=torch.float64).view(1, 1, 1, 2) for d in ([3.0, -1.0], [-2.0, -2.0], [1.0, 3.0])
    ]
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    model = DefendedModel(linear_net(torch.ones(2, 2, dtype=torch.float64)), None)
    target = Target(model, x, torch.tensor([0]), ThreatModel(EPS), 0, best=x, alive=torch.ones(1))
    rest = iter(directions)
    found = climb(Keeper(target), x, lambda _: next(rest), 3, momenta=(0.0, 0.5), eps_steps=(0.25, 0.25))
    slow, expected = torch.zeros(1, 1, 1, 2, dtype=torch.float64), x
    for direction in directions:
        d = direction / direction.abs().mean()
        slow = 0.5 * slow + d
        expected = expected + EPS / 4 * torch.sign((d + (1 - 0.5) * slow) / 2)
    torch.testing.assert_close(found, expected)


def test_where_all_is_won_nothing_moves_and_nan_is_no_direction() -> None:
    x = torch.full((3, 1, 1, 2), 0.5, dtype=torch.float64)
    model = DefendedModel(linear_net(torch.ones(2, 2, dtype=torch.float64)), None)
    target = Target(model, x, torch.tensor([0, 0, 0]), ThreatModel(EPS), 0, best=x, alive=torch.ones(3))
    once = torch.tensor([1.0, 1.0, torch.nan], dtype=torch.float64).view(3, 1, 1, 1).expand_as(x)
    then = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1).expand_as(x)
    rest = iter([once, then])
    found = climb(Keeper(target), x, lambda _: next(rest), 2, momenta=(0.9,), eps_steps=(0.25, 0.25))
    torch.testing.assert_close((found - x)[:, 0, 0, 0] / (EPS / 4), torch.tensor([1.0, 2.0, 1.0]).double())


# ---- what is kept


def test_the_keeper_returns_the_iterate_that_is_right_least_often() -> None:
    keeper = Keeper(linear_target())
    wrong = X + EPS * UP
    keeper.look(X - EPS * UP)
    keeper.look(wrong)
    keeper.look(X - EPS * UP)
    margins = LINEAR(wrong).argmax(1) != Y
    assert bool(margins.any())
    assert torch.equal(keeper.best[margins], wrong[margins])
    assert keeper.right[margins].tolist() == [0.0] * int(margins.sum())
    # of those that are right as often the one that lies nearer to the border, or further beyond it
    keeper = Keeper(linear_target())
    for share in (0.1, 0.3, 0.2):
        keeper.look(X + share * EPS * UP)
    torch.testing.assert_close(keeper.best, X + 0.3 * EPS * UP)


def test_the_keeper_judges_by_many_draws_of_the_whole_defence() -> None:
    x, y = images(6, (1, 2, 2), dtype=torch.float32), torch.zeros(6, dtype=torch.int64)
    keeper = Keeper(Target(drifting(Coin()), x, y, ThreatModel(EPS), 0))
    keeper.look(x)
    assert keeper.nb_draws == 16
    assert {float(16 * right) % 1 for right in keeper.right} == {0.0}
    assert 0 < float(keeper.right.mean()) < 1
    assert keeper.ranking.tolist() == [[1]] * 6  # the other of two
    # always on the same draws of its own: the same iterate is neither better nor worse
    again = keeper.right.clone()
    keeper.look(x)
    assert torch.equal(keeper.right, again)
    assert keeper.starts is not None
    assert len(keeper.starts) == 6 * 16
    assert Keeper(linear_target()).nb_draws == 1


def test_what_does_not_beat_the_strongest_result_so_far_is_not_returned() -> None:
    begun = X + EPS * UP
    keeper = Keeper(linear_target(begun))
    keeper.look(X)
    assert torch.equal(keeper.best, begun)
    # without looks, and without anything to begin with, nothing is asked
    target = linear_target(begun)
    Keeper(target, looks=False)
    Keeper(replace(target, best=None))
    assert target.queries.forward == 0


# ---- the way across the budget


@pytest.mark.parametrize("max_iter", [1, 3, 4, 5, 8, 20, 100])
def test_few_steps_are_as_large_as_they_must_be(max_iter: int) -> None:
    first, last = crossing(1 / 8, max_iter)
    assert first == max(1 / 8, 3.2 / max_iter)
    assert last == first / 4
    if max_iter > 1:  # its width is twice the budget
        assert max_iter * (first + last) / 2 >= 2


@pytest.mark.parametrize(
    "attack",
    [
        evolution_strategy(3, 4),
        evolution_strategy(8, 4),
        evolution_strategy(4, 4, 1.0),
        *(expectation_pgd(max_iter, 1) for max_iter in (1, 4, 10, 13)),
        expectation_pgd(10, 1, loss="ce", momenta=(0.9,), seen="f_a"),
        flat_transfer(10, 4, seen="f_a"),
    ],
    ids=lambda attack: attack.name,
)
def test_an_attack_that_begins_in_the_wrong_corner_gets_to_the_right_one(attack: Attack) -> None:
    attacked = attack.run(linear_target(X - EPS * UP))
    torch.testing.assert_close(attacked, X + EPS * UP)


# ---- the attack


@pytest.mark.parametrize("loss", ["ce", "margin", "targeted"])
def test_on_a_linear_net_every_loss_ends_in_the_corner(loss: str) -> None:
    attacked = expectation_pgd(12, 3, loss=loss).run(linear_target())  # type: ignore[arg-type]
    wrong = LINEAR(X + EPS * UP).argmax(1) != Y
    assert bool((LINEAR(attacked).argmax(1) != Y)[wrong].all())
    # what isn't won is still climbed
    torch.testing.assert_close(attacked[~wrong], (X + EPS * UP)[~wrong])


def test_it_starts_from_the_strongest_result_so_far() -> None:
    begun = (X + EPS * UP).clone()
    once = expectation_pgd(1, 1, eps_steps=(1e-9, 1e-9))
    torch.testing.assert_close(once.run(linear_target(begun)), begun)
    # alone: from a random start of its own
    target = linear_target()
    alone = expectation_pgd(1, 1, eps_steps=(1e-9, 1e-9), continues=False).run(target)
    torch.testing.assert_close(alone, Target(LINEAR, X, Y, ThreatModel(EPS), 0).start(), rtol=0, atol=1e-9)


def test_fewer_steps_of_g_are_seen_and_a_twin_may_be() -> None:
    assert expectation_pgd(1, 1, nb_steps=3).view == View(max_iter=3)
    twin = expectation_pgd(1, 1, seen="twin")
    assert (twin.view.model, twin.kind) == ("twin", "transfer")
    target = digits_target(defended(), 3)
    target.twin = None
    assert twin.missing(target) == "needs an independent copy of f_a"


def test_what_is_differentiated_is_the_twin_and_what_is_kept_is_judged_by_the_defence() -> None:
    target = digits_target(defended(), 4)
    assert target.twin is not None
    with target.seen(View("twin")) as model:
        assert model.classifier is target.twin
        assert model.transform is not None
        assert target.defended.transform is not None
        assert model.transform.model is target.defended.transform.model
    assert Keeper(target).model.classifier is target.defended.classifier
    with target.defended.frozen(3), target.seen(View("twin")) as model:
        assert model.is_frozen


def test_a_transfer_returns_its_end_without_asking_the_model() -> None:
    target = digits_target(undefended(), 3)
    target = replace(target, defended=defended(), queries=Queries())
    attacked = expectation_pgd(6, 1, seen="f_b").run(target)
    assert target.queries.forward == 0
    assert not torch.equal(attacked, target.x)
    expectation_pgd(6, 1).run(target)
    assert target.queries.forward > 0


def test_it_brings_a_defended_and_an_undefended_net_down() -> None:
    for model, most in ((undefended(), 0.1), (defended(), 0.25)):
        target = digits_target(model, 40)
        attacked = target.project(expectation_pgd(40, 4, momenta=(0.0, 0.9)).run(target))
        with torch.no_grad():
            logits = target.view()(attacked.repeat_interleave(8, 0))
        assert float((logits.argmax(1) == target.y.repeat_interleave(8)).float().mean()) <= most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "expected max_iter >= 1, got 0"),
        ({"eot_samples": 0}, "expected eot_samples >= 1, got 0"),
        ({"loss": "dlr"}, "unknown loss 'dlr'; known: ce, margin, targeted"),
        ({"momenta": ()}, r"expected momenta in \[0, 1\), got \(\)"),
        ({"momenta": (1.0,)}, r"expected momenta in \[0, 1\), got \(1.0,\)"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expectation_pgd(**({"max_iter": 1, "eot_samples": 1} | options))  # type: ignore[arg-type]
