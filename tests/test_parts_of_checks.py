"""Checks that ask for several things: whatever one of them is missing, alone, is a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Target
from art_advtransform.config import ThreatModel
from art_advtransform.diagnostics import Case, Verdict, comparisons, diagnose
from art_advtransform.diagnostics.comparisons import StraightThrough
from art_advtransform.diagnostics.paths import Path, PathAttack, eot_pgd
from tests.cases import FEW, digits_case
from tests.evaluations import drifting
from tests.models import undefended

# at which the whole attack on the undefended net leaves nothing
WIDE = ThreatModel(0.15)


def returning(make: Callable[[Target], Tensor]) -> PathAttack:
    """An attack that goes nowhere, and returns what ``make`` does."""

    def attack(target: Target, max_iter: int, eot_samples: int) -> Path:
        nothing = torch.zeros(len(target.x), dtype=torch.bool)
        return Path([target.x] * (max_iter + 1), torch.ones(max_iter, len(target.x)), make(target), nothing)

    return attack


lazy = returning(lambda target: target.x)


def sparing(rows: slice, target: Target, max_iter: int, eot_samples: int) -> Path:
    """All but these images are attacked."""
    path = eot_pgd(target, max_iter, eot_samples)
    x_adv = path.x_adv.clone()
    x_adv[rows] = target.x[rows]
    return replace(path, x_adv=x_adv)


def figure(found: Verdict, name: str) -> float:
    value = found.figures[name]
    assert value is not None
    return value


# ---- 2: the budget, and the valid range


@pytest.mark.parametrize(
    "make",
    [
        lambda target: (target.x + 1.5 * target.threat.eps).clamp(0, 1),
        lambda target: target.x - 0.5 * target.threat.eps,
        lambda target: target.x + 0.5 * target.threat.eps,
    ],
    ids=["beyond the budget", "below the range", "above the range"],
)
def test_attacked_images_are_in_the_budget_and_in_the_range(make: Callable[[Target], Tensor]) -> None:
    case = digits_case(undefended())
    assert (float(case.x.min()), float(case.x.max())) == (0, 1)
    for wrong in (replace(case, attack=returning(make)), replace(case, attack=lazy, found=make(case.target(0)))):
        found = diagnose(wrong, [2])[2]
        assert found.status == "fail"
        assert figure(found, "outside") == pytest.approx(0.5 * case.threat.eps, abs=1e-6)


# ---- 5: noise under EOT, and for a fixed D


class Wheel(nn.Module):
    """Two classes that turn into one another as the image brightens."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, x: Tensor) -> Tensor:
        phase = self.rate * x.flatten(1).sum(1)
        return 5 * torch.stack([phase.sin(), phase.cos()], 1)


@pytest.mark.parametrize(("rate", "draws", "noisy"), [(300.0, 2000, "fixed"), (5.0, 1, "eot")])
def test_noise_that_many_draws_hide_and_noise_that_a_fixed_one_hides(rate: float, draws: int, noisy: str) -> None:
    x = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    case = Case(drifting(Wheel(rate)), x, torch.arange(40) % 2, ThreatModel(0.1), **{**FEW, "eot_samples": draws})
    found = diagnose(case, [5])[5]
    assert found.status == "fail"
    (other,) = {"fixed", "eot"} - {noisy}
    assert figure(found, noisy) > 0.7
    assert figure(found, other) < 0.4


# ---- 10: falling, and down to chance


def weak_in_the_middle(target: Target, max_iter: int, eot_samples: int) -> Path:
    attack = lazy if round(255 * target.threat.eps) == 32 else eot_pgd
    return attack(target, max_iter, eot_samples)


def test_accuracy_that_rises_on_its_way_down_to_chance() -> None:
    found = diagnose(digits_case(undefended(), attack=weak_in_the_middle), [10])[10]
    assert figure(found, "end") <= 0.1
    assert figure(found, "rise") >= 0.3
    assert found.status == "fail"


# ---- 11: steps, draws, starts


class Spares:
    """All but four images; with more draws, or from another start, not those four."""

    def __init__(self, what: str) -> None:
        self.what, self.starts = what, 0

    def __call__(self, target: Target, max_iter: int, eot_samples: int) -> Path:
        if max_iter == 1:
            return lazy(target, max_iter, eot_samples)
        if (max_iter, eot_samples) == (FEW["max_iter"], FEW["eot_samples"]):
            self.starts += 1
        if self.what == "draws" and eot_samples > FEW["eot_samples"]:
            return eot_pgd(target, max_iter, eot_samples)
        rows = slice(4, 8) if self.what == "starts" and self.starts == 2 else slice(4)
        return sparing(rows, target, max_iter, eot_samples)


@pytest.mark.parametrize("what", ["draws", "starts"])
def test_an_attack_that_more_of_one_thing_makes_stronger(what: str) -> None:
    case = replace(digits_case(undefended(), attack=Spares(what)), threat=WIDE)
    found = diagnose(case, [11])[11]
    usual = {"base": 4 / 12, "twice the steps": 4 / 12, "twice the draws": 4 / 12, "twice the starts": 4 / 12}
    expected = {**usual, "one step": 1.0, f"twice the {what}": 0.0}
    assert {name: figure(found, name) for name in expected} == pytest.approx(expected)
    assert found.status == "fail"


# ---- 16: alone, behind a sign, behind a clip; at the budget, and at twice that


def control(target: Target) -> str:
    """Which one the target is."""
    net = target.defended.classifier
    if not isinstance(net, nn.Sequential):
        return "alone"
    assert isinstance(net[0], StraightThrough)
    return "behind a sign" if net[0].function is comparisons._by_signs else "behind a clip"


@pytest.mark.parametrize("where", ["alone", "behind a sign", "behind a clip"])
def test_an_attack_that_fails_on_one_control(where: str) -> None:
    def attack(target: Target, max_iter: int, eot_samples: int) -> Path:
        return (lazy if control(target) == where else eot_pgd)(target, max_iter, eot_samples)

    found = diagnose(digits_case(undefended(), attack=attack), [16])[16]
    assert found.status == "fail"
    accuracies = {name: figure(found, name) for name in found.figures}
    names = ("alone", "behind a sign", "behind a clip")
    assert list(accuracies) == [f"{name}, {times} x eps" for times in (1, 2) for name in names]
    for name, accuracy in accuracies.items():
        assert accuracy >= 0.5 if name.startswith(where) else accuracy <= 2 / 12


def test_at_twice_the_budget_no_image_is_spared() -> None:
    def attack(target: Target, max_iter: int, eot_samples: int) -> Path:
        return sparing(slice(1), target, max_iter, eot_samples)

    found = diagnose(replace(digits_case(undefended(), attack=attack), threat=WIDE), [16])[16]
    assert all(0 < figure(found, name) <= 2 / 12 for name in found.figures)
    assert found.status == "fail"


def test_the_controls_are_eight_levels_and_a_clip_both_with_the_identity_as_their_derivative() -> None:
    layers: dict[str, Any] = {}

    def attack(target: Target, max_iter: int, eot_samples: int) -> Path:
        if control(target) != "alone":
            layers[control(target)] = target.defended.classifier[0]  # type: ignore[index]
        return lazy(target, max_iter, eot_samples)

    diagnose(digits_case(undefended(), attack=attack), [16])
    x = torch.linspace(0.01, 0.99, 50, requires_grad=True)
    expected = {"behind a sign": (7 * x).round() / 7, "behind a clip": x.clamp(0.05, 0.95)}
    assert set(layers) == set(expected)
    for name, layer in layers.items():
        torch.testing.assert_close(layer(x), expected[name])
        (slope,) = torch.autograd.grad(layer(x).sum(), x)
        assert torch.equal(slope, torch.ones(50))
