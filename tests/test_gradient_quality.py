"""What the table of gradients' gains makes of its measurements."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet, load_dataset
from art_advtransform.evaluate_nets import Nets
from benchmarks import gradient_quality
from benchmarks.gradient_quality import averaged, gains, judged, mean_and_error, stepped
from benchmarks.subject import Subject
from tests.evaluations import drifting
from tests.problems import linear_net


def row(estimator: str, n: int, eps: float, draws: int, gain: float) -> dict[str, Any]:
    told = {"gain_error": gain / 10, "over_identity": gain - 0.4, "over_identity_error": 0.01}
    told |= {"images": 2, "pairs": 4, "seed": 0}
    return {"estimator": estimator, "N": n, "eps": eps, "draws": draws, "gain": gain, **told}


def test_a_rule_s_row_has_each_gain_where_it_belongs() -> None:
    rows = [
        row("identity", 13, 0.2, 1, 0.1),
        row("identity", 13, 0.2, 16, 0.4),
        row("identity", 13, 0.2, 64, 0.6),
        row("identity", 1, 0.2, 16, 0.5),
        row("identity", 13, 0.05, 16, 2.5),
        row("identity", 13, 0.3, 16, 0.2),
        row("evolution", 13, 0.2, 16, 0.0),
    ]
    identity, evolution = gains(rows)
    assert identity["estimator"] == "identity"
    columns = ("N1", "N3", "N13", "eps0.05", "eps0.1", "eps0.3", "draws1", "draws4", "draws64")
    assert [identity[column] for column in columns] == [0.5, "-", 0.4, 2.5, "-", 0.2, 0.1, "-", 0.6]
    assert identity["standard_error"] == pytest.approx(0.04)
    assert (evolution["N13"], evolution["N1"], evolution["draws64"]) == (0.0, "-", "-")
    assert (identity["over_identity"], evolution["over_identity"]) == (0.0, -0.4)
    assert evolution["over_identity_error"] == 0.01


def test_a_difference_on_the_same_images_is_surer_than_either() -> None:
    identity = torch.tensor([0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    rule = identity + torch.tensor([0.01, 0.03, 0.01, 0.03])
    gain, error = mean_and_error(rule)
    assert (gain, error) == pytest.approx((0.445, float(rule.std()) / 2))
    more, more_error = mean_and_error(rule - identity)
    assert (more, more_error) == pytest.approx((0.02, 0.01 / 3**0.5), rel=1e-5)
    assert error is not None
    assert more_error is not None
    assert more_error < error / 10
    alone, unknown = mean_and_error(identity[:1])
    assert alone == pytest.approx(0.1)
    assert unknown is None  # NaN is no JSON


def test_what_is_kept_is_kept_for_its_nets_images_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[int] = []

    def measured(*_: Any) -> list[dict[str, Any]]:
        asked.append(len(asked))
        return [{"row": len(asked)}]

    monkeypatch.setattr(gradient_quality, "measure", measured)
    arguments = argparse.Namespace(dataset="digits", pairs=4, seed=0)
    nets, data, threat = Nets.load("digits"), load_dataset("digits", "test"), ThreatModel(0.1)
    subject = Subject(nets, data.sample(2), threat)
    paper, other = TransformConfig(), replace(nets, f_a=nets.undefended)
    first = gradient_quality.kept(subject, paper, arguments)
    assert gradient_quality.kept(subject, paper, arguments) == first
    assert len(asked) == 1
    gradient_quality.kept(subject, TransformConfig(max_iter=3), arguments)
    gradient_quality.kept(replace(subject, nets=other), paper, arguments)
    gradient_quality.kept(replace(subject, data=data.sample(2, 5)), paper, arguments)
    gradient_quality.kept(replace(subject, threat=ThreatModel(0.2)), paper, arguments)
    gradient_quality.kept(subject, paper, argparse.Namespace(dataset="digits", pairs=8, seed=0))
    assert len(asked) == 6
    with monkeypatch.context() as newer:
        newer.setattr(gradient_quality, "environment", lambda _: {"torch": "another"})
        gradient_quality.kept(subject, paper, arguments)
    assert len(asked) == 7
    assert gradient_quality.kept(subject, paper, arguments) == first


def test_a_step_along_the_gradient_gains_what_a_linear_net_says_and_one_against_it_loses() -> None:
    w = torch.tensor([[0.1, -0.2, 0.3, 0.4], [0.0] * 4])
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    subject = Subject(Nets.load("digits"), ImageSet("two", x, y, ("a", "b")), ThreatModel(0.1))
    model = drifting(linear_net(w))
    ((draws, gradient),) = averaged(model.view(), x, y, (6,))
    assert draws == 6
    # the loss of class 0 falls along w, that of class 1 rises
    assert torch.equal(gradient.sign().flatten(1), torch.stack([-w[0].sign(), w[0].sign()]))
    up, down = stepped(subject, gradient), stepped(subject, -gradient)
    torch.testing.assert_close(up - x, 0.025 * gradient.sign())
    before, after, below = (judged(model, subject, images, 0) for images in (x, up, down))
    assert bool((below < before).all() and (before < after).all())
    # by half of its slope, at most: a quarter of the budget in every pixel
    assert float((after - before).max()) < 0.025 * 1.0
    assert torch.equal(judged(model, subject, up, 0), after)  # in the same draws
