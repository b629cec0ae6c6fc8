"""DefendedModel under AutoAttack (pyautoattack), unmodified: logits, images in [0, 1], and its warnings where they are due."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from art_advtransform import DefendedModel
from art_advtransform.randomness import global_seed
from tests.models import defended, digits_target, undefended

pyautoattack: Any = pytest.importorskip("pyautoattack", reason='pip install "art-advtransform[diagnose]"')

RANDOMISED, DYNAMIC, PROBABILITIES = "randomized defense", "dynamic defense", "probability distribution"


def warnings(model: nn.Module, caplog: pytest.LogCaptureFixture) -> tuple[torch.Tensor, str]:
    """Attacked images, and what AutoAttack had to say."""
    target = digits_target(undefended(), 12)
    pyautoattack.checks.funcs.update(
        dict.fromkeys(pyautoattack.checks.funcs, 0)
    )  # it counts over all models it has seen
    attack = pyautoattack.AutoAttack(
        model, norm="Linf", eps=target.threat.eps, version="custom", attacks=["apgd-ce"], seed=0
    )
    attack.apgd.n_restarts, attack.apgd.n_iter, attack.apgd.eot_iter = 1, 10, 2
    caplog.clear()
    with global_seed(0), caplog.at_level(logging.WARNING, "auto-attack"):
        attacked, _ = attack.run_standard_evaluation(target.x, target.y, batch_size=12)
    return attacked, caplog.text


def test_a_defended_model_is_attacked_and_found_out(caplog: pytest.LogCaptureFixture) -> None:
    target, model = digits_target(undefended(), 12), defended(seed=0).eval()
    attacked, said = warnings(model, caplog)
    assert float((attacked - target.x).abs().max()) <= target.threat.eps + 1e-6
    with torch.no_grad():
        before, after = ((model(x).argmax(1) == target.y).float().mean() for x in (target.x, attacked))
    assert after <= before - 0.5
    assert RANDOMISED in said
    assert DYNAMIC in said
    assert PROBABILITIES not in said


def test_an_undefended_one_raises_neither(caplog: pytest.LogCaptureFixture) -> None:
    _, said = warnings(undefended().eval(), caplog)
    assert RANDOMISED not in said
    assert DYNAMIC not in said
    _, said = warnings(DefendedModel(nn.Sequential(undefended().classifier, nn.Softmax(1)), None).eval(), caplog)
    assert PROBABILITIES in said
