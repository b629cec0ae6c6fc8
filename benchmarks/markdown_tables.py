"""The tables of README.md and RESULTS.md, from the CSVs that the benchmarks wrote: what stands there is what a command printed.

    python -m benchmarks.markdown_tables

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, NAME being the CSV's, as in `table1-digits`; this command writes
them anew, and a test asks whether they agree.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import RESULTS

DOCUMENTS = tuple(Path(__file__).parent.parent / name for name in ("README.md", "RESULTS.md"))
_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, str]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: above it.
        name: the CSV's column.
        interval: whether its interval stands beside it.
        digits: after the point; ``None``: as it is.
        of: the CSV's column that says of how many it is a share.
    """

    head: str
    name: str
    interval: bool = False
    digits: int | None = 1
    of: str | None = None

    def cell(self, row: Row) -> str:
        """Of this row; "-" where the CSV has none."""
        value = _short(row.get(self.name, "-"), self.digits)
        if self.of is not None and value != "-":
            return f"{value} % of {int(row[self.of]):,}"
        if not self.interval or value == "-":
            return value
        low, high = (_short(row.get(f"{self.name}_{end}", "-"), self.digits) for end in ("low", "high"))
        return value if low == "-" else f"{value} ({low} to {high})"  # published numbers have none


TABLES: dict[str, tuple[Column, ...]] = {
    "strong": (
        Column("stage", "stage"),
        Column("attacks", "attacks", digits=0),
        Column("on images", "attacked", digits=0),
        Column("evaluations an image", "evaluations", digits=0),
        Column("minutes of its attacks", "process_minutes", digits=0),
        Column("defended", "defended", True),
        Column("adversarial", "adversarial", True),
        Column("undefended", "undefended"),
        Column("f_a without g", "f_a_without_g"),
    ),
    **dict.fromkeys(
        ("second_pass", "restarts"),
        (
            Column("what", "what", digits=None),
            Column("images", "images", digits=0),
            Column("accuracy", "accuracy", True),
            Column("evaluations an image", "evaluations", digits=0),
        ),
    ),
    "autoattack": (
        Column("attack", "attack", digits=None),
        Column("on images", "attacked", digits=0),
        Column("accuracy", "accuracy", True),
        Column("passes an image", "passes", digits=0),
    ),
    "budget_sweep": (
        Column("eps", "eps", digits=4),
        Column("defended", "defended", True),
        Column("adversarial", "adversarial", True),
        Column("undefended", "undefended", True),
        Column("f_a without g", "f_a_without_g", True),
    ),
    "gradient_gain": (
        Column("estimator", "estimator"),
        Column("N = 1", "N1", digits=2),
        Column("N = 3", "N3", digits=2),
        Column("N = 5", "N5", digits=2),
        Column("N = 13", "N13", digits=2),
        Column("its standard error", "standard_error", digits=2),
        Column("eps 0.05", "eps0.05", digits=2),
        Column("eps 0.1", "eps0.1", digits=2),
        Column("1 draw", "draws1", digits=2),
        Column("4 draws", "draws4", digits=2),
        Column("64 draws", "draws64", digits=2),
    ),
    "released_attack": (
        Column("attack", "attack", digits=None),
        Column("least likely", "least_likely", True),
        Column("more", "least_likely_more", True),
        Column("most likely", "most_likely", True),
        Column("more", "most_likely_more", True),
    ),
    "stages": (
        Column("stage", "stage", digits=None),
        Column("attack", "attack", digits=None),
        Column("accuracy", "accuracy", True),
        Column("more than the first of stage 1", "more_than_bpda", True),
        Column("evaluations an image", "evaluations", digits=0),
        Column("seconds", "seconds", digits=0),
    ),
    "table1": (
        Column("f_b: epochs, or how", "f_b", digits=None),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "standard"),
        Column("BPDA-I: PGD, EOT", "bpda_identity", True),
        Column("momentum PGD", "momentum_pgd", True),
        Column("E[g(x)] - x: mean", "distance_mean", digits=3),
        Column("RMS", "distance_rms", digits=3),
        Column("noise in that RMS", "distance_noise", digits=3),
        Column("max", "distance_max", digits=3),
        Column("paper, CIFAR-10: clean", "paper_standard"),
        Column("BPDA-I", "paper_bpda_identity"),
        Column("distance, norm not told", "paper_distance", digits=3),
    ),
    "table2": (
        Column("defence", "defence"),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "clean"),
        Column("transfer", "transfer", True),
        Column("HopSkipJump", "hop_skip_jump", True),
        Column("GenAttack", "gen_attack", True),
        Column("white box: momentum PGD", "white_box_momentum_pgd", True),
        Column("worst", "worst", True),
        Column("attacks run", "attacks_run"),
        Column("paper, CIFAR-10: clean", "paper_clean"),
        Column("transfer", "paper_transfer"),
        Column("HopSkipJump", "paper_hop_skip_jump"),
        Column("GenAttack", "paper_gen_attack"),
    ),
    "table3": (
        Column("method", "method"),
        Column("implementation", "implementation"),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "standard"),
        Column("worst", "worst", True),
        Column("more than adversarial training", "more_than_adversarial", True),
        Column("attacks run", "attacks_run"),
        Column("that of them which leaves least", "best_attack"),
        Column("paper, CIFAR-10: clean", "paper_standard"),
        Column("worst", "paper_worst"),
        Column("attack", "paper_attack"),
        Column("measured by", "paper_source"),
    ),
    "figure5": (
        Column("steps N of g", "N", digits=0),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "standard"),
        Column("draws a step", "eot_draws", digits=0),
        Column("soft sign", "softsign", True),
        Column("tanh", "tanh", True),
        Column("BPDA-I, same steps and draws", "bpda_identity", True),
        Column("momentum PGD", "momentum_pgd", True),
    ),
    "table5": (
        Column("defence", "defence"),
        Column("clean, those attacked", "standard"),
        Column("examples of N = 3", "examples_of_N3", True),
        Column("N = 5", "examples_of_N5", True),
        Column("N = 7", "examples_of_N7", True),
        Column("paper: clean", "paper_standard"),
        Column("N lost", "paper_column_1"),
        Column("N lost", "paper_column_2"),
        Column("N lost", "paper_column_3"),
    ),
    "table6": (
        Column("method", "method"),
        Column("implementation", "implementation"),
        Column("training images", "training_images", digits=0),
        Column("epochs", "epochs", digits=0),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "standard"),
        Column("black-box transfer", "black_box_transfer", True),
        Column("worst of the three PGD of all rows", "bpda"),
        Column("worst", "worst", True),
        Column("more than adversarial training", "more_than_adversarial", True),
        Column("attacks run", "attacks_run"),
        Column("that of them which leaves least", "best_attack"),
        Column("paper, Tiny ImageNet: clean", "paper_standard"),
        Column("BPDA", "paper_bpda"),
        Column("worst", "paper_worst"),
        Column("attack", "paper_attack"),
    ),
    "figure8": (
        Column("training images of h", "training_images", digits=0),
        Column("steps", "steps", digits=0),
        Column("h - g, RMS: training images", "train_error", digits=4),
        Column("test images", "test_error", digits=4),
        Column("attack through h", "attacked", True),
        Column("BPDA-I, same steps and draws", "bpda_identity", True),
        Column("momentum PGD", "momentum_pgd", True),
        Column("paper: attack through h", "paper_attacked"),
    ),
    "figure6": (
        Column("eps of g", "eps_of_g", digits=2),
        Column("clean, test images", "test_accuracy", of="test_images"),
        Column("clean, those attacked", "standard"),
        Column("BPDA-I, 1 draw", "bpda_identity_1", True),
        Column("3 draws", "bpda_identity_3", True),
        Column("10 draws", "bpda_identity_10", True),
        Column("50 draws", "bpda_identity_50", True),
        Column("white-box transfer", "white_box_transfer", True),
        Column("momentum PGD", "momentum_pgd", True),
    ),
}


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
        print(f"written to {document}")


def filled(text: str) -> str:
    """``text`` with all of its tables as the CSVs have them."""
    return _BLOCK.sub(lambda block: f"{block[1]}{table(block[2])}\n{block[3]}", text)


def table(name: str) -> str:
    """The table of ``<name>-*.csv`` in Markdown: those of the columns that the CSV has."""
    paths = sorted(RESULTS.glob(f"{name}-cpu-torch*.csv"), key=_torch)
    if not paths:
        raise ValueError(f"expected a CSV of {name} in {RESULTS}, found none")
    path = paths[-1]  # of the newest torch
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in TABLES[name.split("-")[0]] if column.name in rows[0]]
    lines = [[column.head for column in columns], ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[column.cell(row) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _torch(path: Path) -> tuple[int, ...]:
    """The version in a CSV's name."""
    return tuple(int(part) for part in path.stem.rpartition("-torch")[2].split("."))


def _short(value: str, digits: int | None) -> str:
    try:
        return value if digits is None else f"{float(value):.{digits}f}"
    except ValueError:
        return value


if __name__ == "__main__":
    main()
