"""The whole AutoAttack on nets without g: its four parts, each on what is left, with the numbers of its standard version."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from art_advtransform.config import ThreatModel
from benchmarks import autoattack, harness
from benchmarks.autoattack import STANDARD, auto_attack
from tests.models import defended, digits_target, undefended

pyautoattack: Any = pytest.importorskip("pyautoattack", reason='pip install "art-advtransform[diagnose]"')
SEEN: list[dict[str, Any]] = []


class Brief(pyautoattack.AutoAttack):  # type: ignore[misc]
    """Notes what it is asked for, and then takes few steps."""

    def run_standard_evaluation(self, x: Any, y: Any, /, **options: Any) -> Any:
        apgd, targeted, fab, square = self.apgd, self.apgd_targeted, self.fab, self.square
        steps = {"apgd-ce": apgd.n_iter, "apgd-t": targeted.n_iter, "fab-t": fab.n_iter, "square": square.n_queries}
        targets = {"apgd-t": targeted.n_target_classes, "fab-t": fab.n_target_classes}
        (part,) = self.attacks_to_run
        SEEN.append(
            {"part": part, "n": len(x), "steps": steps[part], "targets": targets.get(part), "eps": self.epsilon}
        )
        apgd.n_iter = targeted.n_iter = fab.n_iter = 5
        square.n_queries = 20
        return super().run_standard_evaluation(x, y, **options)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(pyautoattack, "AutoAttack", Brief)


def test_every_part_has_the_numbers_of_the_standard_version() -> None:
    target = digits_target(undefended(), 6)
    for part in STANDARD:
        auto_attack(part).run(target)
    assert [(seen["part"], seen["steps"], seen["targets"]) for seen in SEEN] == [
        ("apgd-ce", 100, None),
        ("apgd-t", 100, 9),
        ("fab-t", 100, 9),
        ("square", 5000, None),
    ]
    assert {seen["eps"] for seen in SEEN} == {target.threat.eps}


def test_a_large_budget_takes_an_undefended_net_down() -> None:
    target = digits_target(undefended(), 12)
    target.threat = ThreatModel(0.5)
    attacked = auto_attack("apgd-ce").run(target)
    assert float((attacked - target.x).abs().max()) <= 0.5 + 1e-6
    assert not bool((target.defended(attacked).argmax(1) == target.y).any())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["autoattack", "--dataset", "digits", "--model", "undefended", "--images", "20"])
    autoattack.main()
    with next(tmp_path.glob("autoattack-undefended-digits-*.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["attack"] for row in rows] == [
        "no attack",
        *(f"AutoAttack: {part}" for part in STANDARD),
        "per-image worst case",
    ]
    left = [float(row["accuracy"]) for row in rows]
    assert left[0] > left[1]
    assert left == sorted(left, reverse=True)
    # each sees only what those before it left
    assert [int(row["attacked"]) for row in rows[1:5]] == [round(20 * share / 100) for share in left[:4]]
    assert [seen["n"] for seen in SEEN] == [int(row["attacked"]) for row in rows[1:5] if int(row["attacked"])]


def test_a_model_that_draws_and_unknown_parts_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert defended().randomized
    monkeypatch.setattr(sys, "argv", ["autoattack", "--dataset", "digits", "--model", "defended"])
    with pytest.raises(SystemExit):
        autoattack.main()
    assert "expected a model that does not draw, got 'defended'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown part of AutoAttack 'apgd'; known: apgd-ce, apgd-t, fab-t, square"):
        auto_attack("apgd")
