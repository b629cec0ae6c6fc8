"""expectation_pgd climbs what it was asked to: by that rule, along that loss, over so many draws, with those momenta."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks import expectation
from art_advtransform.attacks.base import Seen, Target
from art_advtransform.attacks.climbing import Keeper, Loss, climb, cross_entropy, margin
from art_advtransform.attacks.expectation import LossName, expectation_pgd
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.unrolled import Tanh
from tests.problems import classifier, defended_model, images

EPS = 0.05
X, Y = images(3), torch.tensor([0, 1, 2])
LOGITS = images(3, (1, 1, 5)).flatten(1) * 4


class Watched:
    """The climbs of an attack, and the gradients that each asks for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.climbs: list[dict[str, Any]] = []
        self.gradients: list[tuple[nn.Module, Loss, int]] = []
        monkeypatch.setattr(expectation, "climb", self.climb)
        monkeypatch.setattr(expectation, "expected_gradient", self.gradient)

    def climb(self, keeper: Keeper, x_adv: Tensor, direction: Any, max_iter: int, **options: Any) -> Tensor:
        self.climbs.append({"max_iter": max_iter, **options})
        return climb(keeper, x_adv, direction, max_iter, **options)

    def gradient(self, model: nn.Module, x: Tensor, loss: Loss, y: Tensor, draws: int) -> Tensor:
        assert torch.equal(y, Y)
        self.gradients.append((model, loss, draws))
        return torch.ones_like(x)


def a_target(model: DefendedModel | None = None) -> Target:
    model = defended_model().eval() if model is None else model
    return Target(model, X, Y, ThreatModel(EPS), 0, twin=classifier(3))


@pytest.mark.parametrize("seen", ["defended", "twin"])
def test_what_is_differentiated_has_the_rule_and_the_steps_of_g(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, watched = Tanh(1.0, normalize=True), Watched(monkeypatch)
    attack = expectation_pgd(1, 1, gradient=rule, nb_steps=2, seen=seen)
    assert attack.view.gradient is rule
    attack.run(a_target())
    ((model, _, _),) = watched.gradients
    assert isinstance(model, DefendedModel)
    assert model.transform is not None
    assert (model.transform.gradient, model.transform.config.max_iter) == (rule, 2)


@pytest.mark.parametrize(("loss", "expected"), [("ce", cross_entropy), ("margin", margin)])
def test_the_loss_is_the_one_of_that_name(loss: LossName, expected: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    expectation_pgd(2, 3, loss=loss).run(a_target())
    assert [found for _, found, _ in watched.gradients] == [expected] * 2


def test_towards_each_of_the_three_wrong_classes_that_lead_there(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, target = Watched(monkeypatch), a_target(DefendedModel(classifier(), None).eval())
    target.best, target.alive = X, torch.ones(3)
    expectation_pgd(2, 1, loss="targeted").run(target)
    with torch.no_grad():
        ranking = target.bare()(X).scatter(1, Y[:, None], -torch.inf).argsort(1, descending=True)
    rows = torch.arange(3)
    towards = [(LOGITS[rows, ranking[:, k]] - LOGITS[rows, Y]).clamp_max(2.0) for k in range(3)]
    assert len(watched.climbs) == 3
    for (_, found, _), expected in zip(watched.gradients, (towards[k // 2] for k in range(6)), strict=True):
        torch.testing.assert_close(found(LOGITS, Y), expected)


def test_a_step_is_of_all_its_draws_or_of_one_where_nothing_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, draws in ((defended_model().eval(), 7), (DefendedModel(classifier(), None).eval(), 1)):
        watched = Watched(monkeypatch)
        expectation_pgd(2, 7).run(a_target(model))
        assert [found for _, _, found in watched.gradients] == [draws] * 2


@pytest.mark.parametrize("eps_steps", [None, (1 / 8, 1 / 40)])
@pytest.mark.parametrize("momenta", [(0.0,), (0, 0.9, 0.99)])
def test_steps_and_momenta_are_the_climb_s(
    momenta: tuple[float, ...], eps_steps: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    expectation_pgd(3, 1, momenta=momenta, eps_steps=eps_steps).run(a_target())
    assert watched.climbs == [{"max_iter": 3, "momenta": momenta, "eps_steps": eps_steps, "looks": 1}]


def test_what_it_asks_of_the_model_is_its_steps_draws_and_looks() -> None:
    target = a_target()
    expectation_pgd(3, 5, continues=False).run(target)
    # a look is of sixteen draws
    assert (target.queries.forward, target.queries.backward) == (3 * (3 * 5 + 16), 3 * 3 * 5)
