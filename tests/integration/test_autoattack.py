"""DefendedModel under AutoAttack (pyautoattack), unmodified: logits, images in [0, 1], and its warnings where they are due."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from art_advtransform import DefendedModel, LLPGDTransform
from art_advtransform.counting import SCORING, predictions
from art_advtransform.randomness import global_seed
from tests.integration.nets import CONFIG, problem, seeded
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


def test_for_randomised_models_it_averages_twenty_draws_and_drops_an_image_at_the_first_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AutoAttack issue 105: by luck alone, what an attack that does nothing leaves falls with every look."""
    task = problem(n=32)
    model = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG, generator=seeded(2))).eval()
    attack = pyautoattack.AutoAttack(model, norm="Linf", eps=0.1, version="rand", seed=0)
    assert attack.attacks_to_run == ["apgd-ce", "apgd-dlr"]
    assert (attack.apgd.eot_iter, attack.apgd.n_restarts, attack.apgd.n_iter) == (20, 1, 100)
    asked: list[torch.Tensor] = []

    def nothing(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        asked.append(x.clone())
        return x

    monkeypatch.setattr(attack.apgd, "perturb", nothing)
    attacked, found = attack.run_standard_evaluation(task.x, task.y, batch_size=32)
    assert torch.equal(attacked, task.x)
    left = [[row for row, image in enumerate(task.x) if (images == image).flatten(1).all(1).any()] for images in asked]
    left += [(found == task.y).nonzero().flatten().tolist()]
    assert set(left[0]) > set(left[1]) > set(left[2])
    # a single draw of all images says how many are right on average, and then one more for each attack
    shares = (predictions(model, task.x, 200, 0, SCORING) == task.y[:, None]).double().mean(1)
    assert float(shares.mean()) == pytest.approx(len(left[0]) / 32, abs=0.15)
    assert len(left[2]) / 32 < float(shares.mean()) - 0.15
    dropped = [row for row in range(32) if row not in left[2]]
    assert int((shares[dropped] > 0.5).sum()) >= 3


def test_an_undefended_one_raises_neither(caplog: pytest.LogCaptureFixture) -> None:
    _, said = warnings(undefended().eval(), caplog)
    assert RANDOMISED not in said
    assert DYNAMIC not in said
    _, said = warnings(DefendedModel(nn.Sequential(undefended().classifier, nn.Softmax(1)), None).eval(), caplog)
    assert PROBABILITIES in said
