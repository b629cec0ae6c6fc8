"""What each fault of the released attack is worth: robust accuracy as coded, each mended alone, each left in alone, and corrected.

    python -m benchmarks.released_attack [--dataset cifar10] [--images 200]

The same nets and images throughout; both objectives of g: least likely (the paper) and most likely (the released experiment). f_a
was trained on g of the first: its clean accuracy stands beside. The first rows are the published numbers, of another net. Resumes
from --out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.config import Objective, TransformConfig
from art_advtransform.evaluation import evaluate
from benchmarks.harness import print_table, progress, write_csv
from benchmarks.subject import Subject, options

# accuracy in per cent: Table 1, Table 3
PUBLISHED = {
    "published: no attack": 82.9,
    "published: BPDA-I": 80.5,
    "published: worst of all BPDA": 80.2,
    "published: worst": 78.1,
}


def attacks() -> list[Attack]:
    """As coded; one fault mended; all but one, which tells what that one fakes; all; and attacks that never had them.

    All but the division is left out: under sign steps it changes nothing, and costs as much as all mended.
    """
    others = [fault for fault in FAULTS if fault != "division"]
    return [
        released_bpda(),
        *(released_bpda([fault]) for fault in FAULTS),
        *(released_bpda([other for other in FAULTS if other != fault]) for fault in others),
        released_bpda(list(FAULTS)),
        momentum_pgd(400),
        expectation_pgd(100, 4, momenta=(0.0, 0.9), continues=False),
    ]


def main() -> None:
    parser = options(__doc__, images=200)
    parser.add_argument("--draws", type=int, default=40, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    out = Path(f"runs/released_attack-{arguments.dataset}") if arguments.out is None else arguments.out
    rows: list[dict[str, Any]] = [_published(name, accuracy) for name, accuracy in PUBLISHED.items()]
    for objective in get_args(Objective):
        result = evaluate(
            subject.with_config(TransformConfig(objective=objective)),
            subject.x,
            subject.y,
            attacks(),
            subject.threat,
            out=out / objective,
            seed=arguments.seed,
            nb_draws=arguments.draws,
            progress=lambda name, done, total: progress(f"{done}/{total} {name}"),
        )
        for found in (result.clean, *result.attacks, result.worst):
            assert found.mean is not None, found.problem
            assert result.clean.mean is not None
            rows.append(
                {
                    "objective": objective,
                    "attack": found.name,
                    "accuracy": 100 * found.mean.value,
                    "low": 100 * found.mean.low,
                    "high": 100 * found.mean.high,
                    "of_clean": 100 * found.mean.value / max(result.clean.mean.value, 1e-9),
                    "images": len(subject.x),
                    "draws": arguments.draws,
                    "seed": arguments.seed,
                    "f_a_trained_on": "least_likely",
                }
            )
    print_table(rows)
    print(f"written to {write_csv(f'released_attack-{arguments.dataset}', rows)}")


def _published(name: str, accuracy: float) -> dict[str, Any]:
    unknown = dict.fromkeys(("low", "high", "of_clean", "images", "draws", "seed", "f_a_trained_on"), "-")
    return {"objective": "least_likely", "attack": name, "accuracy": accuracy, **unknown}


if __name__ == "__main__":
    main()
