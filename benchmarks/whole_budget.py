"""Does the whole budget of the preset strong leave less of the defended net than a tenth of it?

    python -m benchmarks.whole_budget [--dataset cifar10] [--images 20]

All stages at a tenth of the budget, then all of them in full on what these left: an image that stays right in more than a
hundredth of the draws to the end costs up to 87,000 evaluations of f_a(g(.)), and one that is won nothing more. Resumes from --out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.strong import strong
from art_advtransform.evaluate_nets import DEFENDED
from benchmarks.harness import print_table, write_csv
from benchmarks.strong_by_stage import rows
from benchmarks.subject import Subject, named, options

_PART = 0.1


def main() -> None:
    parser = options(__doc__, images=20)
    parser.add_argument("--draws", type=int, default=100, help="draws of D that score the worst case")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    result = subject.evaluated(
        attacks(),
        "whole_budget",
        arguments,
        nb_attack_draws=min(arguments.draws, 20),
        chunk_size=len(subject.x),
    )
    table = rows({DEFENDED: result})
    print_table(table)
    print(f"written to {write_csv(named('whole_budget', arguments), table)}")


def attacks() -> list[Attack]:
    """A tenth of the budget, then all of it."""
    return [
        replace(attack, stage=f"{attack.stage}, {called}")
        for budget, called in ((_PART, "a tenth"), (1.0, "whole"))
        for attack in strong(budget)
    ]


if __name__ == "__main__":
    main()
