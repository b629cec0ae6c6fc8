"""Robust accuracy against the budget: undefended, adversarially trained, f_a without g, and defended, under the same attacks.

    python -m benchmarks.budget_sweep [--dataset cifar10] [--images 100]

A defence whose accuracy stays above chance however large the budget hides its gradients. Resumes from --out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.config import ThreatModel
from art_advtransform.evaluate_nets import ADVERSARIAL, BARE, DEFENDED, UNDEFENDED, evaluate_nets
from art_advtransform.figures import curve_figure
from art_advtransform.records import AttackResult
from benchmarks.columns import with_interval
from benchmarks.harness import RESULTS, print_table, progress, write_csv
from benchmarks.subject import Subject, options

# shares of the usual budget
SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def main() -> None:
    parser = options(__doc__, images=100)
    parser.add_argument("--draws", type=int, default=20, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    out = Path(f"runs/budget_sweep-{arguments.dataset}") if arguments.out is None else arguments.out
    models = [name for name in (UNDEFENDED, ADVERSARIAL, BARE, DEFENDED) if name in subject.nets.models()]
    about = {"images": len(subject.x), "draws": arguments.draws, "seed": arguments.seed}
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        threat = ThreatModel(subject.threat.eps * share, clip_values=subject.threat.clip_values)
        found = evaluate_nets(
            subject.nets,
            subject.data,
            threat,
            out / f"{share:g}",
            preset=[momentum_pgd(100), expectation_pgd(50, 4, momenta=(0.0, 0.9))],
            models=models,
            seed=arguments.seed,
            nb_draws=arguments.draws,
        )
        if not rows:
            rows.append({"eps": 0.0, **_left({name: e.clean for name, e in found.items()}), **about})
        rows.append({"eps": threat.eps, **_left({name: e.worst for name, e in found.items()}), **about})
        progress(f"eps {threat.eps:.4g}: " + ", ".join(f"{name} {rows[-1][_column(name)]:.1f} %" for name in models))
    print_table(rows)
    print(f"written to {write_csv(f'budget_sweep-{arguments.dataset}', rows)}")
    curves = {name: [(row["eps"], row[_column(name)]) for row in rows] for name in models}
    path = RESULTS / f"budget_sweep-{arguments.dataset}.png"
    print(f"written to {curve_figure(curves, 'accuracy against budget', path)}")


def _left(results: dict[str, AttackResult]) -> dict[str, float]:
    return {key: value for name, found in results.items() for key, value in with_interval(_column(name), found).items()}


def _column(model: str) -> str:
    return model.replace(" ", "_")


if __name__ == "__main__":
    main()
