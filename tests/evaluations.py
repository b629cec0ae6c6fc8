"""Cheap evaluations, and hand-made records, for the tests of evaluation, tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.attacks.base import Target
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.counting import Interval
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluation import evaluate
from art_advtransform.layer import LLPGDTransform
from art_advtransform.records import AttackResult, Evaluation
from tests.models import fake_attack
from tests.problems import images, linear_net

Run = Callable[[Target], Tensor]
THREAT = ThreatModel(eps=0.1)
X, Y = images(10, (1, 2, 2), dtype=torch.float32) * 0.8 + 0.1, torch.arange(10) % 2


class Coin(nn.Module):
    """Two classes that a small change of the image or of the draw turns over, as good as at random."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(300.0))

    def forward(self, x: Tensor) -> Tensor:
        phase = self.rate * x.flatten(1).sum(1)
        return torch.stack([phase.sin(), phase.cos()], 1)


def drifting(f_a: nn.Module, eps: float = 0.2) -> DefendedModel:
    """f_a(x + D): f_b has no gradient, so that g goes nowhere from its start."""
    return DefendedModel(f_a, LLPGDTransform(linear_net(torch.zeros(2, 4)), TransformConfig(eps=eps, max_iter=2)))


def step(target: Target) -> Tensor:
    """One step along the gradient, with noise of the attack's own."""
    x = target.x.clone().requires_grad_()
    F.cross_entropy(target.view(eot_samples=2)(x), target.y, reduction="sum").backward()
    assert x.grad is not None
    noise = torch.rand(x.shape, generator=target.generator(1))
    return (x + target.threat.eps * noise * x.grad.sign()).detach()


def darker(target: Target) -> Tensor:
    return target.x - 0.03


def set_preset(monkeypatch: pytest.MonkeyPatch, **runs: Run) -> None:
    """Preset "mine", of attacks given as name=function."""
    monkeypatch.setitem(PRESETS, "mine", lambda: [fake_attack(name, run) for name, run in runs.items()])


def run(model: DefendedModel | None = None, x: Tensor = X, y: Tensor = Y, **more: Any) -> Evaluation:
    """``evaluate`` with few draws and chunks of 4 of the 10 images."""
    few: dict[str, Any] = {"preset": "mine", "threat": THREAT, "nb_draws": 12, "nb_selection_draws": 5, "chunk_size": 4}
    return evaluate(drifting(Coin()) if model is None else model, x, y, **few | more)


def timeless(result: Evaluation) -> Evaluation:
    """Without what may differ from run to run: how long it took, and where it is."""
    attacks = [replace(a, seconds=0.0) for a in result.attacks]
    return replace(result, clean=replace(result.clean, seconds=0.0), attacks=attacks, path=None)


def mean(result: AttackResult) -> float:
    assert result.mean is not None
    return result.mean.value


# ---- records made by hand


def measured(name: str, value: float, width: float = 0.05, **more: Any) -> AttackResult:
    """Accuracies ``value``, the vote a tenth above, any a tenth below; intervals ``width`` to either side."""
    mean, vote, every = (Interval(v, v - width, v + width) for v in (value, value + 0.1, value - 0.1))
    return AttackResult(name, "white box", "art", "", mean, vote, every, **more)


def by_hand() -> dict[str, Evaluation]:
    """Two models; the second has no numbers for "B", and the first does not know "C"."""
    settings: dict[str, Any] = {
        "nb_images": 40, "nb_draws": 7, "nb_selection_draws": 3, "seed": 5, "threat": {"eps": 0.125}, "transform": None,
        "randomized": False, "sha256": {"images": "x", "labels": "y", "f_a": "a"},
    }  # fmt: skip
    plain = Evaluation(
        settings,
        measured("no attack", 0.8),
        [measured("A", 0.2, seconds=2.5, forward=10.0, backward=4.0, max_distance=0.125), measured("B", 0.345678)],
        measured("worst", 0.15),
        ["A"] * 40,
    )
    behind_g = Evaluation(
        {**settings, "transform": {"eps": 0.2}, "randomized": True},
        measured("no attack", 0.7),
        [
            measured("A", 0.6),
            AttackResult("B", "black box", "foolbox", "not run: needs foolbox"),
            measured("C", 0.45, width=0.2),
        ],
        measured("worst", 0.4),
        ["C"] * 40,
    )
    return {"plain": plain, "behind g": behind_g}
