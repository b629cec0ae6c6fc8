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
from art_advtransform.records import Evaluation
from benchmarks.columns import column, of_models
from benchmarks.harness import RESULTS, print_table, progress, write_csv
from benchmarks.subject import Subject, named, options

# shares of the usual budget
SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def main() -> None:
    parser = options(__doc__, images=100)
    parser.add_argument("--draws", type=int, default=20, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    out = Path("runs") / named("budget_sweep", arguments) if arguments.out is None else arguments.out
    models = [name for name in (UNDEFENDED, ADVERSARIAL, BARE, DEFENDED) if name in subject.nets.models()]
    about = {"images": len(subject.x), "skip": arguments.skip, "draws": arguments.draws, "seed": arguments.seed}
    found: dict[float, dict[str, Evaluation]] = {}
    for share in SHARES:
        eps = subject.threat.eps * share
        found[eps] = evaluate_nets(
            subject.nets,
            subject.data,
            ThreatModel(eps, clip_values=subject.threat.clip_values),
            out / f"{share:g}",
            preset=[momentum_pgd(100), expectation_pgd(50, 4, momenta=(0.0, 0.9))],
            models=models,
            seed=arguments.seed,
            nb_draws=arguments.draws,
        )
        left = {name: evaluation.worst.mean for name, evaluation in found[eps].items()}
        progress(
            f"eps {eps:.4g}: " + ", ".join(f"{name} {100 * mean.value:.1f} %" for name, mean in left.items() if mean)
        )
    rows = [{**row, **about} for row in by_budget(found)]
    print_table(rows)
    print(f"written to {write_csv(named('budget_sweep', arguments), rows)}")
    curves = {name: [(row["eps"], row[column(name)]) for row in rows] for name in models}
    path = RESULTS / f"{named('budget_sweep', arguments)}.png"
    print(f"written to {curve_figure(curves, 'accuracy against budget', path)}")


def by_budget(found: dict[float, dict[str, Evaluation]]) -> list[dict[str, Any]]:
    """A row without an attack, and one of the worst case within every eps, the nets side by side."""
    clean = {name: evaluation.clean for name, evaluation in next(iter(found.values())).items()}
    rows = [{"eps": 0.0, **of_models(clean)}]
    for eps, evaluations in found.items():
        rows.append({"eps": eps, **of_models({name: evaluation.worst for name, evaluation in evaluations.items()})})
    return rows


if __name__ == "__main__":
    main()
