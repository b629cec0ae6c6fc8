"""The whole budget after a tenth of it."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from art_advtransform.attacks.base import from_function
from art_advtransform.attacks.strong import STAGES
from art_advtransform.records import Evaluation
from art_advtransform.store import slug
from benchmarks import harness, whole_budget
from benchmarks.kept_images import kept
from benchmarks.subject import named, options
from benchmarks.whole_budget import attacks


def test_every_stage_runs_at_a_tenth_and_then_in_full_on_what_is_left() -> None:
    tried = attacks()
    half = len(tried) // 2
    names = [stage for stage, _ in groupby(tried, key=lambda attack: attack.stage)]
    assert names == [f"{stage}, {called}" for called in ("a tenth", "whole") for stage in STAGES]
    assert all(attack.continues for attack in tried)
    # those of the whole budget are others, which cost more, and have files of their own
    assert len({slug(attack.name) for attack in tried}) == len(tried)
    for part, whole in zip(tried[:half], tried[half:], strict=True):
        assert (part.method, part.view.model) == (whole.method, whole.view.model)
        assert part.cost < whole.cost or part.cost == 0


def test_the_command_s_record_and_table_know_which_images_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    darker = replace(from_function("darker", lambda x, y: x - 0.125), stage="0 transfer")
    monkeypatch.setattr(whole_budget, "attacks", lambda: [darker])
    monkeypatch.setattr(
        sys, "argv", ["whole_budget", "--dataset", "digits", "--images", "3", "--skip", "2", "--draws", "3"]
    )
    whole_budget.main()
    run = tmp_path / "runs" / "whole_budget-digits"
    settings = Evaluation.load(run / "evaluation.json").settings
    about = {"dataset": "digits", "model": "defended", "skip": 2}
    assert {name: settings[name] for name in about} == about
    assert settings["nets"]["f_b"] == "digits/f_b-adversarial"
    assert kept(run, -1.0)["numbers"].tolist() == [2, 3, 4]
    with next(tmp_path.glob("whole_budget-digits-*.csv")).open(newline="") as file:
        assert {row["skip"] for row in csv.DictReader(file)} == {"2"}


def test_results_of_another_seed_or_of_other_nets_have_names_of_their_own() -> None:
    parser = options(None, images=1)
    asked: tuple[list[str], ...] = (
        [],
        ["--seed", "3"],
        ["--nets", "runs/mine"],
        ["--nets", "runs/mine", "--seed", "3", "--dataset", "cifar10"],
    )
    assert [named("stages", parser.parse_args(arguments)) for arguments in asked] == [
        *("stages-digits", "stages-digits-seed3", "stages-digits-runs-mine", "stages-cifar10-runs-mine-seed3"),
    ]
