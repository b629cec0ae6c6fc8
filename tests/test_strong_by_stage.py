"""What the stages of an evaluation left, summed: each stage by its last attack that ran."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from art_advtransform.evaluate_nets import DEFENDED
from art_advtransform.records import AttackResult, Evaluation
from benchmarks import harness, strong_by_stage
from benchmarks.strong_by_stage import rows
from tests.evaluations import by_hand, measured

_TRANSFER, _MORE = "0 transfer", "1 more"


def staged() -> dict[str, Evaluation]:
    """Two nets; the first cannot be attacked by the second stage."""
    made = {name: replace(e, settings={**e.settings, "nb_attack_draws": 3}) for name, e in by_hand().items()}
    attacks = [
        measured("A", 0.5, stage=_TRANSFER, nb_attacked=35, forward=2.0, backward=1.0, seconds=60.0),
        measured("B", 0.4, stage=_TRANSFER, nb_attacked=30, forward=3.0, backward=2.0, seconds=30.0),
        measured("C", 0.3, stage=_MORE, nb_attacked=20, forward=10.0, seconds=120.0),
        AttackResult("D", "white box", "art", "not run: there is nothing", stage=_MORE),
    ]
    without = [
        measured("A", 0.2, stage=_TRANSFER, nb_attacked=40),
        *(replace(a, problem="no", mean=None) for a in attacks[2:]),
    ]
    return {
        "f_a without g": replace(made["plain"], attacks=without),
        DEFENDED: replace(made["behind g"], attacks=attacks),
    }


def test_a_stage_is_what_its_last_attack_left_and_what_all_of_them_cost() -> None:
    clean, transfer, more, worst = rows(staged())
    assert [line["stage"] for line in (clean, transfer, more, worst)] == [
        *("no attack", _TRANSFER, _MORE, "per-image worst case"),
    ]
    costs = ("attacks", "attacked", "evaluations", "differentiated", "process_minutes")
    assert [transfer[key] for key in costs] == [2, 35, 5, 3, 1.5]
    assert [more[key] for key in costs] == [1, 20, 10, 0, 2]
    assert [worst[key] for key in costs] == [3, 35, 15, 3, 3.5]
    assert [line["defended"] for line in (clean, transfer, more, worst)] == pytest.approx([70, 40, 30, 40])
    assert (transfer["defended_low"], transfer["defended_high"]) == pytest.approx((35, 45))
    assert [line["f_a_without_g"] for line in (clean, transfer, worst)] == pytest.approx([80, 20, 15])
    assert more["f_a_without_g"] == more["f_a_without_g_low"] == "-"
    assert {(line["images"], line["skip"], line["seed"]) for line in (clean, transfer, more, worst)} == {(40, 0, 5)}
    assert [line["draws"] for line in (clean, transfer, more, worst)] == [7, 3, 3, 7]


def test_what_has_no_stages_is_refused() -> None:
    made = by_hand()
    with pytest.raises(ValueError, match="expected attacks that have stages"):
        rows({DEFENDED: made["behind g"]})
    with pytest.raises(ValueError, match="expected a record of 'defended', got plain"):
        rows({"plain": made["plain"]})


def test_the_command_reads_a_folder_and_writes_a_csv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = staged()[DEFENDED]
    settings = {**evaluation.settings, "model": DEFENDED, "dataset": "here", "sha256": {"images": "x", "labels": "y"}}
    replace(evaluation, settings=settings).save(tmp_path / "run" / "defended" / "evaluation.json")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["strong_by_stage", "--run", str(tmp_path / "run")])
    strong_by_stage.main()
    (path,) = tmp_path.glob("strong-here-*.csv")
    assert str(path) in capsys.readouterr().out
    lines = list(csv.DictReader(path.open()))
    assert [line["defended"] for line in lines] == ["70", "40", "30", "40"]
