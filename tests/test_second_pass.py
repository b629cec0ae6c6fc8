"""A second pass over what a record left: its numbers count for the images that it attacked, the record's for the others."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from art_advtransform.attacks.base import Attack, from_function
from art_advtransform.attacks.strong import strong
from art_advtransform.counting import interval
from art_advtransform.datasets import load_dataset
from art_advtransform.evaluate_nets import ADVERSARIAL, DEFENDED, Nets, evaluate_nets
from art_advtransform.evaluation import evaluate
from art_advtransform.pretrained import BUNDLED
from art_advtransform.recipes import DIGITS_THREAT
from art_advtransform.records import AttackResult, Evaluation
from benchmarks import harness, second_pass
from benchmarks.second_pass import attacks, rows, survivors


def found(shares: list[float], **settings: Any) -> Evaluation:
    mean = interval(torch.tensor(shares), 0)
    result = AttackResult("one", "white box", "own", "", mean, per_image=shares, forward=3.0)
    return Evaluation(
        {"seed": 0, "nb_draws": 50, "nb_attack_draws": 20, **settings},
        replace(result, name="no attack"),
        [result],
        result,
        [],
    )


def test_images_are_attacked_again_where_more_than_that_was_left() -> None:
    assert survivors(found([0.0, 0.02, 0.03, 0.5]), 0.02) == [2, 3]


def test_what_it_leaves_counts_even_where_it_is_more() -> None:
    table = rows(found([0.0, 0.02, 0.3, 0.5]), found([0.4, 0.1]), [2, 3])
    told = {row["what"]: (row["images"], round(row["accuracy"], 6)) for row in table}
    assert told == {
        "the record, all images": (4, 20.5),
        "of these, attacked again: the record": (2, 40.0),
        "no attack": (2, 25.0),
        "one": (2, 25.0),
        "after the second pass": (2, 25.0),
        "all images, after the second pass": (4, 13.0),
    }
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in table)
    assert {row["evaluations"] for row in table} == {"-", 3.0}
    assert [row["draws"] for row in table] == [50, 50, 50, 20, 50, 50]


def test_it_is_made_of_the_preset_s_attacks_and_steers() -> None:
    for has_g in (True, False):
        names = [attack.name for attack in attacks(has_g)]
        assert len(names) == 7
        assert [attack.name for attack in strong(0.1) if attack.name in names] == names
    assert [attack.method for attack in attacks(True)][-1] == "steered_pgd"


def test_a_net_without_g_is_attacked_by_what_needs_none() -> None:
    data, nets = load_dataset("digits", "test").sample(2), Nets.load("digits")
    found = evaluate(nets.models()[ADVERSARIAL].eval(), data.x, data.y, attacks(has_g=False), DIGITS_THREAT, nb_draws=2)
    assert [attack.problem for attack in found.attacks] == [""] * 7


@pytest.mark.parametrize("model", [DEFENDED, ADVERSARIAL])
def test_the_command(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, few = load_dataset("digits", "test").sample(6), {"nb_draws": 5, "nb_selection_draws": 2}
    darker = from_function("darker", lambda x, y: x - 0.125)
    options: dict[str, Any] = {"models": [model], "preset": [darker], "about": {"dataset": "digits"}, **few}
    made = evaluate_nets(Nets.load("digits"), data, DIGITS_THREAT, tmp_path, **options)
    before = made[model].worst.mean
    assert before is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    asked: list[bool] = []

    def again(has_g: bool) -> list[Attack]:
        asked.append(has_g)
        return [replace(darker, name="darker still")]

    monkeypatch.setattr(second_pass, "attacks", again)
    arguments = ["second_pass", "--dataset", "digits", "--record", str(tmp_path), "--model", model, "--draws", "5"]
    monkeypatch.setattr(sys, "argv", arguments)
    second_pass.main()
    (path,) = tmp_path.glob(f"second_pass{'' if model == DEFENDED else '-adversarial'}-digits-*.csv")
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["images"] for row in (table[0], table[1], table[-1])] == ["6", table[2]["images"], "6"]
    assert float(table[0]["accuracy"]) == pytest.approx(100 * before.value, rel=1e-3)
    assert asked == [model == DEFENDED]
    if model == ADVERSARIAL:  # nothing draws: the same attack leaves the same
        assert float(table[-1]["accuracy"]) == pytest.approx(100 * before.value, rel=1e-3)
        assert {row["accuracy"] for row in table[1:-1]} == {"100"}
    monkeypatch.setattr(sys, "argv", [*arguments, "--images", "3"])
    with pytest.raises(SystemExit, match="2"):
        second_pass.main()
    for wrong, message in ((["--seed", "1"], "of seed 1, got 0"), (["--draws", "4"], "of nb_draws 4, got 5")):
        monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
        with pytest.raises(ValueError, match=message):
            second_pass.main()


def test_a_record_of_other_nets_or_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLED / "digits", tmp_path / "nets")
    data, few = load_dataset("digits", "test"), {"nb_draws": 2, "nb_selection_draws": 2}
    options: dict[str, Any] = {"models": [DEFENDED], "preset": [], **few}
    mine, other = Nets.load(str(tmp_path / "nets")), data.sample(3, 7)
    evaluate_nets(mine, data.sample(3), DIGITS_THREAT, tmp_path / "mine", about={"dataset": "digits"}, **options)
    evaluate_nets(Nets.load("digits"), other, DIGITS_THREAT, tmp_path / "other", about={"dataset": "digits"}, **options)
    for record, message in (
        ("mine", "of adversarial digits/adversarial, got .*/nets/adversarial: see --nets"),
        ("other", "same images"),
    ):
        arguments = ["second_pass", "--dataset", "digits", "--record", str(tmp_path / record), "--draws", "2"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(ValueError, match=message):
            second_pass.main()
