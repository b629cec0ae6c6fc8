"""What every attack of the preset strong does alone, on the same images, at about the same cost.

    python -m benchmarks.stages [--dataset cifar10] [--images 50] [--cost 2000]

In the preset each attack meets what the ones before left, so that the first takes all the credit. Here each starts from the
image (or at random), on all images, its steps scaled to --cost evaluations an image; what costs nothing stays as it is. Resumes
from --out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.strong import strong
from art_advtransform.evaluate_nets import DEFENDED
from art_advtransform.evaluation import evaluate
from benchmarks.harness import print_table, progress, write_csv
from benchmarks.subject import Subject, options


def main() -> None:
    parser = options(__doc__, images=50)
    parser.add_argument("--cost", type=int, default=2000, help="evaluations that each may spend on an image")
    parser.add_argument("--draws", type=int, default=20, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    result = evaluate(
        subject.defended,
        subject.x,
        subject.y,
        [scaled(i, arguments.cost) for i in range(len(strong()))],
        subject.threat,
        out=Path(f"runs/stages-{arguments.dataset}") if arguments.out is None else arguments.out,
        seed=arguments.seed,
        nb_draws=arguments.draws,
        surrogates=subject.nets.surrogates(DEFENDED),
        twin=subject.nets.twin,
        progress=lambda name, done, total: progress(f"{done}/{total} {name}"),
    )
    assert result.clean.mean is not None
    rows: list[dict[str, Any]] = []
    for found in result.attacks:
        rows.append(
            {
                "stage": found.stage,
                "attack": found.name,
                "problem": found.problem,
                "accuracy": "-" if found.mean is None else 100 * found.mean.value,
                "clean": 100 * result.clean.mean.value,
                "evaluations": found.forward,
                "differentiated": found.backward,
                "seconds": found.seconds,
                "images": len(subject.x),
                "draws": arguments.draws,
                "seed": arguments.seed,
            }
        )
    print_table(rows)
    print(f"written to {write_csv(f'stages-{arguments.dataset}', rows)}")


def scaled(index: int, cost: int) -> Attack:
    """Attack number ``index`` of the preset, alone, with steps that cost about ``cost``; it can't cost less than one step."""
    # what an attack spends on looking at its iterates does not shrink with its steps
    least, full = strong(1e-9)[index].cost, strong()[index].cost
    budget = max((cost - least) / (full - least), 1e-9) if full > least else 1.0
    return replace(strong(budget)[index], continues=False)


if __name__ == "__main__":
    main()
