"""What every attack of the preset strong does alone, on the same images, at about the same cost.

    python -m benchmarks.stages [--dataset cifar10] [--images 50] [--cost 2000]

In the preset each attack meets what the ones before left, so that the first takes all the credit. Here each starts from the image
(or at random), on all images, its steps as many as --cost evaluations an image pay for, or its least number where that costs
more; what costs nothing stays as it is. The last row is the worst of all for each image. `more_than_bpda` is the difference from
momentum PGD along BPDA-I on the same images. An evaluation that is differentiated through all steps of g takes several times as
long: `seconds` says so. Resumes from --out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.strong import strong
from benchmarks.columns import beside, of_models
from benchmarks.harness import print_table, write_csv
from benchmarks.subject import Subject, named, options

_EXACT = 1e-3  # of the budget's exponent


def main() -> None:
    parser = options(__doc__, images=50)
    parser.add_argument("--cost", type=int, default=2000, help="evaluations that each may spend on an image")
    parser.add_argument("--draws", type=int, default=20, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    tried = [scaled(i, arguments.cost) for i in range(len(strong()))]
    result = subject.evaluated(tried, "stages", arguments)
    assert result.clean.mean is not None
    (plain,) = (found for found in result.attacks if found.name.startswith("BPDA-I: momentum PGD"))
    rows: list[dict[str, Any]] = []
    for found in (*result.attacks, result.worst):
        rows.append(
            {
                "stage": found.stage,
                "attack": found.name,
                "problem": found.problem,
                **of_models({"accuracy": found}),
                **beside("more_than_bpda", found, plain, arguments.seed),
                "clean": 100 * result.clean.mean.value,
                "evaluations": found.forward,
                "differentiated": found.backward,
                "seconds": found.seconds,
                "images": len(subject.x),
                "skip": arguments.skip,
                "draws": arguments.draws,
                "seed": arguments.seed,
            }
        )
    print_table(rows)
    print(f"written to {write_csv(named('stages', arguments), rows)}")


def scaled(index: int, cost: int) -> Attack:
    """Attack number ``index`` of the preset, alone, with the most steps that cost no more than ``cost``, or with its least."""

    def alone(exponent: float) -> Attack:
        return replace(strong(10**exponent)[index], continues=False)

    # cost rises with the budget, but by no formula: what looks at its iterates costs by itself, pairs and steps multiply
    low, high = -9.0, 3.0
    if alone(high).cost <= cost:  # costs nothing, however many
        return alone(0)
    while high - low > _EXACT:
        middle = (low + high) / 2
        low, high = (low, middle) if alone(middle).cost > cost else (middle, high)
    return alone(low)


if __name__ == "__main__":
    main()
