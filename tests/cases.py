"""Cases of the checks: bundled digits nets under an attack of little effort."""

from __future__ import annotations

from typing import Any

import torch

from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics import Case, diagnose
from art_advtransform.pretrained import load_pretrained
from tests.models import defended, digits_target

FEW: dict[str, Any] = {"max_iter": 20, "eot_samples": 4, "nb_draws": 8, "nb_corners": 200, "nb_queries": 100}


def digits_case(model: DefendedModel | None = None, n: int = 12, **more: Any) -> Case:
    """The bundled defended net, or ``model``, on images that it gets right."""
    target = digits_target(defended() if model is None else model, 30)
    with torch.no_grad():
        right = target.defended.eval()(target.x).argmax(1) == target.y
    x, y = target.x[right][:n], target.y[right][:n]
    net = load_pretrained("digits/undefended")
    return Case(target.defended, x, y, target.threat, undefended=net, **{**FEW, **more})


def status(case: Case, number: int) -> str:
    found = diagnose(case, [number])[number]
    assert found.reason
    assert not found.reason.startswith(" ")
    return found.status
