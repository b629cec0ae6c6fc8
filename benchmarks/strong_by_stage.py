"""What every stage of the preset strong left of each net, and what it cost: the lines of an evaluation's record, summed by stage.

    python -m benchmarks.strong_by_stage [--run benchmarks/results/evaluate-cifar10-strong]

`--run` is a folder of `art-advtransform evaluate --preset strong`, or of `report --pool`. Images, evaluations and minutes are of
the defended net; a stage begins with the images that the ones before left right in more than a hundredth of the draws. Minutes
of processes that ran at the same time, or had several threads, are added.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path
from typing import Any

from art_advtransform.evaluate_nets import DEFENDED, load_evaluations
from art_advtransform.records import AttackResult, Evaluation
from benchmarks.columns import of_models
from benchmarks.harness import RESULTS, print_table, write_csv

Stages = dict[str, list[AttackResult]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=RESULTS / "evaluate-cifar10-strong")
    parser.add_argument("--name", default=None, help="of the CSV; default: strong-<data set>")
    arguments = parser.parse_args()
    found = load_evaluations(arguments.run)
    table = rows(found)
    print_table(table)
    name = arguments.name or f"strong-{found[DEFENDED].settings['dataset']}"
    print(f"written to {write_csv(name, table)}")


def rows(evaluations: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """No attack, every stage, and the worst case that is chosen anew of all of them.

    Raises:
        ValueError: if the defended net is not among them, or its attacks have no stages.
    """
    if DEFENDED not in evaluations:
        raise ValueError(f"expected a record of {DEFENDED!r}, got {', '.join(evaluations)}")
    if not any(attack.stage for attack in evaluations[DEFENDED].attacks):
        raise ValueError("expected attacks that have stages: those of the preset strong")
    staged = {model: _stages(evaluation) for model, evaluation in evaluations.items()}
    settings = evaluations[DEFENDED].settings
    told = {
        "images": settings["nb_images"],
        "skip": settings.get("skip", 0),
        "draws": settings["nb_draws"],
        "seed": settings["seed"],
    }
    lines = [{"stage": "no attack", **_cost([]), **of_models({m: e.clean for m, e in evaluations.items()}), **told}]
    for stage, attacks in staged[DEFENDED].items():
        # each attack goes on from what there is: the last one's line tells what all of them left
        last = {model: stages[stage][-1] if stage in stages else None for model, stages in staged.items()}
        lines.append(
            {"stage": stage, **_cost(attacks), **of_models(last), **told, "draws": settings["nb_attack_draws"]}
        )
    spent = [attack for attacks in staged[DEFENDED].values() for attack in attacks]
    worst = of_models({m: e.worst for m, e in evaluations.items()})
    return [*lines, {"stage": "per-image worst case", **_cost(spent), **worst, **told}]


def _stages(evaluation: Evaluation) -> Stages:
    """What ran, by stage."""
    ran = [attack for attack in evaluation.attacks if attack.stage and attack.mean is not None]
    return {stage: list(attacks) for stage, attacks in groupby(ran, key=lambda attack: attack.stage)}


def _cost(attacks: list[AttackResult]) -> dict[str, Any]:
    return {
        "attacks": len(attacks),
        "attacked": attacks[0].nb_attacked if attacks else "-",
        "evaluations": sum(attack.forward for attack in attacks),
        "differentiated": sum(attack.backward for attack in attacks),
        "process_minutes": sum(attack.seconds for attack in attacks) / 60,
    }


if __name__ == "__main__":
    main()
