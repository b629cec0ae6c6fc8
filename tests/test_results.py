"""What the tables of the paper must say whatever the nets: of those in the repository, and of those that the gate has just made."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from benchmarks.harness import RESULTS

DIGITS_OR_CPU = ("digits", "cpu")


def tables(number: int) -> list[Path]:
    """CSVs of that table, at every scale that has been run."""
    return sorted(path for scale in DIGITS_OR_CPU for path in RESULTS.glob(f"table{number}-{scale}-*.csv"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def worst(rows: list[dict[str, str]], method: str) -> float:
    (found,) = (row for row in rows if re.fullmatch(f"{re.escape(method)}(, PGD-\\d+|, FGSM.*)?", row["method"]))
    return float(found["worst"])


@pytest.mark.parametrize("number", [2, 3, 6])
def test_there_is_one_of_digits(number: int) -> None:
    assert [path for path in tables(number) if "-digits-" in path.name]


@pytest.mark.parametrize("path", [path for number in (2, 3, 6) for path in tables(number)], ids=lambda path: path.name)
def test_no_attack_is_missing(path: Path) -> None:
    assert {row["attacks_missing"] for row in read(path)} == {"-"}


@pytest.mark.parametrize("path", [*tables(3), *tables(6)], ids=lambda path: path.name)
def test_a_net_without_a_defence_keeps_nothing_and_adversarial_training_more_than_g(path: Path) -> None:
    rows = read(path)
    assert worst(rows, "none") <= 5
    madry = worst(rows, "PGD adversarial training (Madry)")
    if madry >= 10:  # of the few images that nets know of 200 classes nothing may be left
        assert worst(rows, "this defence") < madry


@pytest.mark.parametrize("path", tables(2), ids=lambda path: path.name)
def test_of_a_model_that_does_not_draw_attacks_leave_less_than_no_attack(path: Path) -> None:
    steady = [row for row in read(path) if row["defence"] != "adversarial transformation"]
    assert len(steady) == 3
    for row in steady:
        left = [float(row[attack]) for attack in ("hop_skip_jump", "gen_attack", "white_box_momentum_pgd")]
        assert max(left) <= float(row["clean"])
        assert float(row["worst"]) <= min(left)
        assert float(row["worst"]) < float(row["clean"])


@pytest.mark.parametrize("path", tables(2), ids=lambda path: path.name)
def test_table_2_has_what_every_single_attack_left(path: Path) -> None:
    attacks = read(path.with_name(path.name.replace("table2-", "table2-attacks-", 1)))
    columns = {
        "no attack": "clean",
        "black-box transfer": "transfer",
        "HopSkipJump": "hop_skip_jump",
        "GenAttack": "gen_attack",
        "BPDA-I: momentum PGD": "white_box_momentum_pgd",
    }
    rows = read(path)
    systems = list(dict.fromkeys(row["system"] for row in attacks))
    assert [re.split(", (?:PGD|FGSM)", row["defence"])[0] for row in rows] == systems
    for row, system in zip(rows, systems, strict=True):
        for start, column in columns.items():
            (left,) = (of["accuracy"] for of in attacks if of["system"] == system and of["attack"].startswith(start))
            assert row[column] == left
