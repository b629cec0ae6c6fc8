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
        for model, evaluation in found.items():
            assert evaluation.worst.mean is not None
            assert evaluation.clean.mean is not None
            rows.append(
                {
                    "model": model,
                    "eps": threat.eps,
                    "accuracy": 100 * evaluation.worst.mean.value,
                    "low": 100 * evaluation.worst.mean.low,
                    "high": 100 * evaluation.worst.mean.high,
                    "clean": 100 * evaluation.clean.mean.value,
                    "images": len(subject.x),
                    "draws": arguments.draws,
                    "seed": arguments.seed,
                }
            )
            progress(f"eps {threat.eps:.4g}, {model}: {rows[-1]['accuracy']:.1f} %")
    print_table(rows)
    print(f"written to {write_csv(f'budget_sweep-{arguments.dataset}', rows)}")
    curves = {
        model: [(0.0, row["clean"]) for row in rows if row["model"] == model][:1]
        + [(row["eps"], row["accuracy"]) for row in rows if row["model"] == model]
        for model in models
    }
    path = RESULTS / f"budget_sweep-{arguments.dataset}.png"
    print(f"written to {curve_figure(curves, 'accuracy against budget', path)}")


if __name__ == "__main__":
    main()
