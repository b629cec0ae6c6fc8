"""Cases of the checks: bundled digits nets under an attack of little effort."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.released import released_bpda
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics import Case, diagnose, faults
from art_advtransform.pretrained import load_pretrained
from art_advtransform.randomness import global_seed
from tests.models import defended, digits_target

FEW: dict[str, Any] = {"max_iter": 20, "eot_samples": 4, "nb_draws": 8, "nb_corners": 200, "nb_queries": 100}


def digits_case(model: DefendedModel | None = None, n: int = 12, **more: Any) -> Case:
    """The bundled defended net, or ``model``, on images that it gets right: the same ones whenever it is asked."""
    target = digits_target(defended() if model is None else model, 30)
    with torch.no_grad(), global_seed(target.seed):  # the draws of g are the target's; f_a may draw for itself
        right = target.view()(target.x).argmax(1) == target.y
    x, y = target.x[right][:n], target.y[right][:n]
    net = load_pretrained("digits/undefended")
    return Case(target.defended, x, y, target.threat, undefended=net, **{**FEW, **more})


def without_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check 18 mends neither the number of draws nor that of steps: 20 steps of one draw each, where it takes 100 of ten."""

    def brief(mended: Collection[str]) -> Attack:
        return released_bpda([fault for fault in mended if fault not in ("one draw", "few steps")])

    monkeypatch.setattr(faults, "released_bpda", brief)


def status(case: Case, number: int) -> str:
    found = diagnose(case, [number])[number]
    assert found.reason
    assert not found.reason.startswith(" ")
    return found.status
