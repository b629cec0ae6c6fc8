"""What each fault of the released attack is worth: robust accuracy as coded, each mended alone, each left in alone, and corrected.

    python -m benchmarks.released_attack [--dataset cifar10] [--images 200]

The same nets and images throughout; both objectives of g: least likely (the paper) and most likely (the released experiment). f_a
was trained on g of the first. The first rows are the published numbers, of another net. `least_likely_more` is the difference
from the attack with all faults mended on the same images; that attack once more, with other draws of its own, says how much of a
difference is luck. Resumes from --out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.config import Objective, TransformConfig
from art_advtransform.evaluation import evaluate
from art_advtransform.records import Evaluation
from benchmarks.columns import beside, with_interval
from benchmarks.harness import print_table, progress, write_csv
from benchmarks.subject import Subject, named, options

# accuracy in per cent: Table 1, Table 3
PUBLISHED = {
    "published: no attack": 82.9,
    "published: BPDA-I": 80.5,
    "published: worst of all BPDA": 80.2,
    "published: worst": 78.1,
}
# Once more under another name, from which the draws of an attack follow: what is another result is luck.
AGAIN = replace(released_bpda(list(FAULTS)), name="all mended, with other draws")


def attacks() -> list[Attack]:
    """As coded; one fault mended; all but one, which tells what that one fakes; all, twice; and attacks that never had them.

    All but the division is left out: under sign steps it changes nothing, and costs as much as all mended.
    """
    others = [fault for fault in FAULTS if fault != "division"]
    return [
        released_bpda(),
        *(released_bpda([fault]) for fault in FAULTS),
        *(released_bpda([other for other in FAULTS if other != fault]) for fault in others),
        released_bpda(list(FAULTS)),
        AGAIN,
        momentum_pgd(400),
        expectation_pgd(100, 4, momenta=(0.0, 0.9), continues=False),
    ]


def main() -> None:
    parser = options(__doc__, images=200)
    parser.add_argument("--draws", type=int, default=40, help="draws of D that score")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    subject = Subject.load(arguments)
    out = Path("runs") / named("released_attack", arguments) if arguments.out is None else arguments.out
    found = {
        objective: evaluate(
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
        for objective in get_args(Objective)
    }
    about = {"images": len(subject.x), "skip": arguments.skip, "draws": arguments.draws, "seed": arguments.seed}
    rows = [{**row, **about} for row in by_attack(found)]
    unknown = dict.fromkeys(rows[0], "-")
    rows[:0] = [{**unknown, "attack": name, "least_likely": published} for name, published in PUBLISHED.items()]
    print_table(rows)
    print(f"written to {write_csv(named('released_attack', arguments), rows)}")


def by_attack(found: dict[Objective, Evaluation]) -> list[dict[str, Any]]:
    """A row for each attack: what it left behind each g, and how much more than the attack with all faults mended."""
    rows: dict[str, dict[str, Any]] = {}
    for objective, evaluation in found.items():
        lines = [evaluation.clean, *evaluation.attacks, evaluation.worst]
        (mended,) = (line for line in lines if line.name == released_bpda(list(FAULTS)).name)
        for line in lines:
            row = rows.setdefault(line.name, {"attack": called(line.name)})
            row |= with_interval(objective, line)
            row |= beside(f"{objective}_more", line, mended, evaluation.settings["seed"])
    return list(rows.values())


def called(name: str) -> str:
    """Short: what is mended, or the one fault that is not."""
    head, _, faults = name.partition(", mended: ")
    missing = [fault for fault in FAULTS if fault not in faults.split(", ")]
    if head != "released BPDA" or len(missing) not in (0, 1, len(FAULTS) - 1):
        return name
    if not missing:
        return "all mended"
    return f"all mended but: {missing[0]}" if len(missing) == 1 else f"only mended: {faults}"


if __name__ == "__main__":
    main()
