"""Options of attacks that no name tells of: what a toolkit's class is made with, the weight of steering, momentum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks import evolution, steering
from art_advtransform.attacks.base import Target, View
from art_advtransform.attacks.climbing import Direction, Keeper, expected_gradient, margin, scaled
from art_advtransform.attacks.evolution import evolution_strategy
from art_advtransform.attacks.foolbox_attacks import foolbox_attack
from art_advtransform.attacks.steering import steered_pgd, steering_gradient
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.randomness import global_seed
from tests.models import digits_target, undefended
from tests.problems import classifier, conv_net, images

# ---- Foolbox


def foolbox_s_own(target: Target, method: str, **options: Any) -> Tensor:
    """What Foolbox finds by itself of f_a, as log-probabilities: to the last sign."""
    from foolbox import attacks
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    net = nn.Sequential(target.defended.classifier, nn.LogSoftmax(1)).eval()
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    with global_seed(target.global_seed):
        attack = getattr(attacks, method)(**options)
        _, attacked, _ = attack(model, target.x, Misclassification(target.y), epsilons=target.threat.eps)
    return torch.as_tensor(attacked)


def within_a_tenth(seed: int = 0) -> Target:
    target = digits_target(undefended(), 4, seed)
    target.threat = ThreatModel(0.1)
    return target


@pytest.mark.parametrize("seed", [0, 1])
def test_an_attack_of_foolbox_is_the_one_that_foolbox_runs(seed: int) -> None:
    target = within_a_tenth(seed)
    options: dict[str, Any] = {"steps": 3, "abs_stepsize": 0.02}
    found = foolbox_attack("any", "LinfPGD", **options).run(target)
    torch.testing.assert_close(found, foolbox_s_own(target, "LinfPGD", **options))
    for other in ({"steps": 2}, {"abs_stepsize": 0.03}, {"random_start": False}):
        assert not torch.equal(found, foolbox_attack("any", "LinfPGD", **options | other).run(target))


def test_what_foolbox_finds_further_away_is_brought_to_the_budget() -> None:
    target = within_a_tenth()
    found = foolbox_attack("any", "LinfDeepFoolAttack", steps=4).run(target)
    torch.testing.assert_close(found, foolbox_s_own(target, "LinfDeepFoolAttack", steps=4))
    assert float((found - target.x).abs().max()) == pytest.approx(0.1)


def test_what_depends_on_the_budget_is_a_function_of_it() -> None:
    target = within_a_tenth()
    found = foolbox_attack("any", "LinfPGD", steps=3, abs_stepsize=lambda threat: threat.eps / 5).run(target)
    torch.testing.assert_close(found, foolbox_s_own(target, "LinfPGD", steps=3, abs_stepsize=0.02))


def test_the_rest_is_the_entry_s() -> None:
    view = View(eot_samples=3)
    attack = foolbox_attack("mine", "LinfPGD", view, kind="transfer", cost=7, continues=True, steps=1)
    assert (attack.name, attack.method, attack.toolkit) == ("mine", "LinfPGD", "foolbox")
    assert (attack.view, attack.kind, attack.cost, attack.continues) == (view, "transfer", 7, True)


# ---- steering and evolution


def still_target() -> Target:
    """A defence that does not draw, so that directions can be compared."""
    g = LLPGDTransform(conv_net(), TransformConfig(max_iter=2, random_start=False))
    x = images(3)
    best = (x + 0.01).clamp(0, 1)
    return Target(
        DefendedModel(classifier(), g).eval(),
        x,
        torch.tensor([0, 1, 2]),
        ThreatModel(0.05),
        0,
        best=best,
        alive=torch.ones(3),
    )


@pytest.mark.parametrize("weight", [None, 0.25, 3.0])
def test_steering_is_weighed_against_the_loss(weight: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    target, directions = still_target(), list[Tensor]()
    assert target.best is not None
    assert target.defended.transform is not None

    def climb(keeper: Keeper, begin: Tensor, direction: Direction, max_iter: int, **options: Any) -> Tensor:
        directions.append(direction(begin))
        return begin

    monkeypatch.setattr(steering, "climb", climb)
    (steered_pgd(2, 1) if weight is None else steered_pgd(2, 1, weight)).run(target)
    loss = scaled(expected_gradient(target.view(), target.best, margin, target.y, 1))
    f_b = target.defended.transform.model
    assert len(directions) == 5
    for k, found in enumerate(directions):
        towards = scaled(steering_gradient(f_b, target.best, torch.full((len(target.x),), k)))
        torch.testing.assert_close(found, loss + (1.0 if weight is None else weight) * towards)
        assert bool(towards.any())


@pytest.mark.parametrize("momentum", [None, 0.0, 0.5])
def test_an_evolution_strategy_climbs_with_its_momentum(
    momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, momenta = still_target(), list[Any]()

    def climb(keeper: Keeper, begin: Tensor, direction: Direction, max_iter: int, **options: Any) -> Tensor:
        momenta.append(options["momenta"])
        return begin

    monkeypatch.setattr(evolution, "climb", climb)
    (evolution_strategy(2, 2) if momentum is None else evolution_strategy(2, 2, momentum=momentum)).run(target)
    assert momenta == [(0.9 if momentum is None else momentum,)]
