"""The sweep over budgets: its rows are what the evaluations of each budget found, and a second start attacks nothing again."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.evaluate_nets import DEFENDED, UNDEFENDED, load_evaluations
from benchmarks import budget_sweep, harness


def test_every_budget_is_a_row_of_what_its_evaluation_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(budget_sweep, "RESULTS", tmp_path)
    monkeypatch.setattr(budget_sweep, "SHARES", (1 / 8, 4))
    monkeypatch.setattr(budget_sweep, "momentum_pgd", lambda _: momentum_pgd(10))
    monkeypatch.setattr(budget_sweep, "expectation_pgd", lambda *_, momenta: expectation_pgd(5, 2, momenta=momenta))
    out = tmp_path / "runs"
    command = ["budget_sweep", "--dataset", "digits", "--images", "4", "--draws", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    budget_sweep.main()
    (path,) = tmp_path.glob("budget_sweep-digits-*.csv")
    assert str(path) in capsys.readouterr().out
    assert (tmp_path / "budget_sweep-digits.png").stat().st_size > 0
    lines = list(csv.DictReader(path.open()))
    assert [float(line["eps"]) for line in lines] == [0, 1 / 64, 1 / 2]  # digits: 2/16
    assert {(line["images"], line["draws"], line["seed"]) for line in lines} == {("4", "3", "0")}
    smallest, largest = load_evaluations(out / "0.125"), load_evaluations(out / "4")
    for name in (DEFENDED, UNDEFENDED):
        found = [smallest[name].clean.mean, smallest[name].worst.mean, largest[name].worst.mean]
        expected = [(100 * mean.value, 100 * mean.low, 100 * mean.high) for mean in found if mean]
        told = [tuple(float(line[f"{name}{end}"]) for end in ("", "_low", "_high")) for line in lines]
        assert told == [pytest.approx(numbers, abs=1e-3) for numbers in expected]
        # half the range of a pixel, against an eighth of the budget that the bundled nets are trained for
        assert expected[2][0] < expected[1][0] <= expected[0][0]
    # the page's examples, outside of the models' folders, are made again
    attacked = list(out.glob("*/*/**/*.safetensors"))
    written = [file.stat().st_mtime_ns for file in attacked]
    assert len(attacked) >= 2 * 2 * 2  # budgets, attacks, nets
    budget_sweep.main()
    assert [file.stat().st_mtime_ns for file in attacked] == written
