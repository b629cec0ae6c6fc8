"""Checks of models that were built to fail them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from art_advtransform import backward
from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnosis import keep, settings_of
from art_advtransform.diagnostics import CRASHED, Case, diagnose
from art_advtransform.diagnostics.paths import PathAttack, eot_pgd, margin_pgd
from art_advtransform.gradients import GRADIENTS
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import load_pretrained
from tests.cases import FEW, digits_case, status
from tests.evaluations import Coin, drifting
from tests.models import digits_target, global_state_untouched


class Wrapped(nn.Module):
    """The undefended digits net with something done to it."""

    def __init__(self, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = load_pretrained("digits/undefended"), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net, x)


def wrapped(change: Callable[[nn.Module, Tensor], Tensor]) -> DefendedModel:
    return DefendedModel(Wrapped(change), None).eval()


def of_its_batch(net: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits + torch.linspace(0, 5, 10) * x.mean()


def masked(net: nn.Module, x: Tensor) -> Tensor:
    """Right, and without a gradient."""
    logits: Tensor = net(x.detach())
    return logits + 0 * x.sum()


def missing(net: nn.Module, x: Tensor) -> Tensor:
    """Nothing comes back at all."""
    logits: Tensor = net(x.detach())
    return logits


def two_faced(net: nn.Module, x: Tensor) -> Tensor:
    """Another net for who differentiates."""
    logits: Tensor = net(1 - x if torch.is_grad_enabled() else x)
    return logits


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits + torch.randn(logits.shape)


def rippled(net: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits + 8 * torch.sin(2000 * x.flatten(1)[:, :10])


def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    shares: Tensor = net(x).softmax(1)
    return shares


FAIL_BY_MODEL = {
    1: of_its_batch,
    4: masked,
    5: rippled,
    9: masked,
    10: masked,
    14: masked,
    15: masked,
    17: masked,
}
FAIL_BY_MODEL_TOO = {4: missing, 8: two_faced, 9: missing}


@pytest.mark.parametrize(("number", "change"), [*FAIL_BY_MODEL.items(), *FAIL_BY_MODEL_TOO.items()])
def test_a_model_built_to_fail(number: int, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    many = {"nb_queries": 300, "nb_corners": 2000}
    found = diagnose(digits_case(wrapped(change), **many), [number])[number]
    assert found.status == "fail"
    assert not found.reason.startswith(CRASHED)


@pytest.mark.parametrize("attack", [eot_pgd, margin_pgd])
def test_noise_is_no_way_to_the_wrong_class_of_many(attack: PathAttack) -> None:
    """At the whole range a random start is as good as never right; without a gradient that is not the attack's doing."""
    torch.manual_seed(0)
    many = nn.Sequential(nn.Flatten(), nn.Linear(64, 200))
    target = digits_target(DefendedModel(Blind(many), None), 12)
    with torch.no_grad():
        labels = many(target.x).argmax(1)
    case = Case(target.defended, target.x, labels, target.threat, attack=attack, **FEW)
    assert status(case, 9) == "fail"
    assert status(replace(case, defended=DefendedModel(many, None).eval()), 9) == "pass"


class Blind(nn.Module):
    """``net`` without a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return missing(self.net, x)


@pytest.mark.parametrize("change", [noisy, probabilities])
def test_what_autoattack_would_say_of_what_a_model_hides(change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert status(digits_case(wrapped(change)), 19) == "fail"


def not_a_number(net: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    return logits * torch.nan


def test_what_fails_on_nan_is_still_written(tmp_path: pathlib.Path) -> None:
    case = digits_case(wrapped(not_a_number))
    found = diagnose(case, [1, 7])
    assert found[7].status == "fail"
    record = json.loads(keep(tmp_path, settings_of(case, {}), found).read_text())
    assert record["verdicts"]["7"]["figures"]["rise"] is None
    assert status(digits_case(max_iter=1), 7) == "not applicable"


class Jittery(nn.Module):
    """Draws for itself, and says so."""

    randomized = True

    def __init__(self) -> None:
        super().__init__()
        self.net = load_pretrained("digits/undefended")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x + 0.05 * torch.randn(x.shape))
        return logits


def test_a_net_that_draws_for_itself_is_no_fault() -> None:
    case = digits_case(DefendedModel(Jittery(), None).eval())
    found = []
    for k in range(2):
        torch.manual_seed(k)
        with global_state_untouched():
            found.append(diagnose(replace(case, _path=None), [1, 12])[1])
    assert found[0] == found[1]
    assert found[0].status == "not applicable"
    assert found[0].reason.startswith("clean accuracy ")


def test_gradients_of_a_coin_do_not_agree() -> None:
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    case = Case(drifting(Coin()), x, torch.arange(8) % 2, ThreatModel(0.1), **FEW)
    found = diagnose(case, [5, 12])
    assert [verdict.status for verdict in found.values()] == ["fail", "fail"]
    assert [draws for draws, _ in found[12].curves["cosine against EOT draws"]] == [1, 2, 4, 8]
    cosine = found[12].figures["cosine"]
    assert cosine is not None
    assert abs(cosine) < 0.5


class Doubled(GradientEstimator):
    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        return 2 * v


class Stretched(LLPGDTransform):
    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        g: Tensor = super().forward(x, start)
        return g + x


@pytest.mark.parametrize("number", [3, 16])
def test_a_backward_pass_of_g_that_goes_the_other_way(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = backward._ExactValue.backward
    monkeypatch.setattr(
        backward._ExactValue, "backward", lambda ctx, v: tuple(g if g is None else -g for g in right(ctx, v))
    )
    assert status(digits_case(), number) == "fail"


def test_a_jacobian_that_is_not_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    f_b = load_pretrained("digits/f_b-adversarial")
    stretched = DefendedModel(load_pretrained("digits/f_a-defended"), Stretched(f_b))
    assert status(replace(digits_case(), defended=stretched), 3) == "fail"
    monkeypatch.setitem(GRADIENTS, "identity", Doubled)
    assert status(digits_case(), 3) == "fail"


def test_a_last_linear_layer_that_is_not_the_end_has_nothing_planted() -> None:
    assert status(digits_case(wrapped(rippled)), 17) == "not applicable"
