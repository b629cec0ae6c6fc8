"""What the tables of the paper must say whatever the nets: of those in the repository, and of those that the gate has just made."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from benchmarks.harness import RESULTS

DIGITS_OR_CPU = ("digits", "cpu")
# By CSV: rows that were measured, and the columns that must be numbers in each.
MEASURED = {
    "table1": (7, ("standard", "bpda_identity", "momentum_pgd", "distance_mean", "distance_rms", "distance_max")),
    "table2": (4, ("clean", "transfer", "hop_skip_jump", "gen_attack", "white_box_momentum_pgd", "worst")),
    "table3": (12, ("standard", "worst")),
    "table5": (5, ("standard", "examples_of_N3", "examples_of_N5", "examples_of_N7")),
    "table6": (5, ("standard", "black_box_transfer", "bpda", "worst")),
    "figure3": (8, ("h", "mean", "max")),
    "figure5": (6, ("standard", "softsign", "tanh", "bpda_identity", "momentum_pgd")),
    "figure6": (4, ("standard", "bpda_identity_1", "bpda_identity_10", "white_box_transfer", "momentum_pgd")),
    "figure8": (15, ("train_error", "test_error")),
    "figure9": (5, ("distance_rms", "distance_noise")),
}


def tables(number: int) -> list[Path]:
    """CSVs of that table, at every scale that has been run."""
    return sorted(path for scale in DIGITS_OR_CPU for path in RESULTS.glob(f"table{number}-{scale}-*.csv"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def worst(rows: list[dict[str, str]], method: str) -> float:
    (found,) = (row for row in rows if re.fullmatch(f"{re.escape(method)}(, PGD-\\d+|, FGSM.*)?", row["method"]))
    return float(found["worst"])


@pytest.mark.parametrize("name", MEASURED)
def test_there_is_one_of_digits_with_every_number_and_its_picture(name: str) -> None:
    nb_rows, columns = MEASURED[name]
    paths = list(RESULTS.glob(f"{name}-digits-*.csv"))
    assert paths
    for path in paths:
        rows = [
            row for row in read(path) if row["dataset"] == "digits"
        ]  # others are the paper's, or say why there is none
        assert len(rows) == nb_rows
        for row in rows:
            for column in columns:
                float(row[column])
    assert (RESULTS / f"{name}-digits.png").stat().st_size > 0


@pytest.mark.parametrize("path", [path for number in (2, 3, 6) for path in tables(number)], ids=lambda path: path.name)
def test_no_attack_is_missing(path: Path) -> None:
    assert {row["attacks_missing"] for row in read(path)} == {"-"}


@pytest.mark.parametrize("path", [*tables(3), *tables(6)], ids=lambda path: path.name)
def test_a_net_without_a_defence_keeps_nothing_and_adversarial_training_more_than_g(path: Path) -> None:
    rows = read(path)
    assert worst(rows, "none") <= 5
    madry = worst(rows, "PGD adversarial training (Madry)")
    if madry >= 10:
        assert worst(rows, "this defence") < madry
    else:  # of the few images that nets know of 200 classes next to nothing may be left to either
        (ours,) = (row for row in rows if row["method"] == "this defence")
        assert float(ours["more_than_adversarial_low"]) <= 0


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
        "(BPDA-I: )?momentum PGD": "white_box_momentum_pgd",
    }
    rows = read(path)
    systems = list(dict.fromkeys(row["system"] for row in attacks))
    assert [re.split(", (?:PGD|FGSM)", row["defence"])[0] for row in rows] == systems
    for row, system in zip(rows, systems, strict=True):
        for start, column in columns.items():
            (left,) = (of["accuracy"] for of in attacks if of["system"] == system and re.match(start, of["attack"]))
            assert row[column] == left
