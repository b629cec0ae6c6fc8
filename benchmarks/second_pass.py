"""What a record of the preset strong left of a net, attacked again from the start.

    python -m benchmarks.second_pass [--dataset cifar10] [--model adversarial] [--record benchmarks/results/evaluate-cifar10-strong]

Images that the record left right in more than --left of its draws are attacked from the start, at a tenth of the budget: transfer
from f_b, the attacks of stage 1 that stood for most of them, and steering; the adversarially trained net by what steps on itself
instead of what needs a g. What that leaves of an image counts instead of what the record says, were it more: to take the less of
the two would count luck. The other images keep what they have. Resumes from --out; `torchrun --nproc-per-node 2 -m
benchmarks.second_pass` shares the images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.strong import strong
from art_advtransform.counting import interval
from art_advtransform.evaluate_nets import ADVERSARIAL, DEFENDED
from art_advtransform.records import AttackResult, Evaluation
from art_advtransform.shards import Shards
from art_advtransform.store import tensors_sha256
from benchmarks.columns import with_interval
from benchmarks.harness import RESULTS, print_table, write_csv
from benchmarks.subject import Subject, named, options

_BUDGET = 0.1
# Beside steering: what stood for most of the images that the record left in more than 2 of 100 draws.
_KEPT = (
    ("0 transfer", "on f_b"),
    ("1 expectation", "momentum PGD"),
    ("1 expectation", "1 draw, momentum 0.9"),
    ("1 expectation", "10 draws, momentum 0/0.9/0.99"),
    ("1 expectation", "40 draws"),
    ("4 steering", "steering"),
)
# Instead of transfer from f_b, and of steering it.
_WITHOUT_G = (("0 transfer", "on f_a"), *(kept for kept in _KEPT if kept[0] == "1 expectation"))


def main() -> None:
    parser = command(__doc__)
    parser.add_argument(
        "--record", type=Path, default=RESULTS / "evaluate-cifar10-strong", help="a folder for each model"
    )
    parser.add_argument("--model", default=DEFENDED, choices=(DEFENDED, ADVERSARIAL), help="of the record")
    arguments = parser.parse_args()
    record = Evaluation.load(arguments.record / arguments.model / "evaluation.json")
    subject, numbers = left_by(record, arguments, parser)
    has_g = subject.nets.models()[arguments.model].randomized
    question = "second_pass" if arguments.model == DEFENDED else f"second_pass-{arguments.model}"
    result = subject.evaluated(
        attacks(has_g),
        question,
        arguments,
        model=arguments.model,
        nb_attack_draws=min(arguments.draws, 20),
        chunk_size=arguments.chunk_size,
        about={"numbers": numbers},
    )
    if Shards().is_main:
        table = rows(record, result, numbers)
        print_table(table)
        print(f"written to {write_csv(named(question, arguments), table)}")


def command(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what :func:`left_by` reads."""
    parser = options(doc, images=0)
    parser.set_defaults(dataset="cifar10")
    parser.add_argument("--left", type=float, default=0.02, help="share of right draws that an image must exceed")
    parser.add_argument("--draws", type=int, default=100, help="draws of D that score the worst case")
    parser.add_argument("--chunk-size", type=int, default=18)
    parser.add_argument("--out", type=Path, default=None)
    return parser


def left_by(
    record: Evaluation, arguments: argparse.Namespace, parser: argparse.ArgumentParser
) -> tuple[Subject, list[int]]:
    """Nets, and the images of ``record`` that it left, with their numbers in it; ends the command where it asks for others."""
    if arguments.images or arguments.skip:
        parser.error("expected neither --images nor --skip: the record says which images")
    arguments.images, arguments.skip = record.settings["nb_images"], int(record.settings.get("skip", 0))
    subject = Subject.load(arguments)
    check_same(record, subject, arguments)
    numbers = survivors(record, arguments.left)
    return replace(subject, data=replace(subject.data, x=subject.x[numbers], y=subject.y[numbers])), numbers


def attacks(has_g: bool) -> list[Attack]:
    """Transfer from f_b, half of stage 1, and steering, as the preset has them at a tenth of its budget; see ``_WITHOUT_G``."""
    kept = _KEPT if has_g else _WITHOUT_G
    return [a for a in strong(_BUDGET) if any(a.stage == stage and part in a.name for stage, part in kept)]


def survivors(record: Evaluation, left: float) -> list[int]:
    """Numbers of the images that were right in more than ``left`` of the draws."""
    return [i for i, share in enumerate(record.worst.per_image) if share > left]


def check_same(record: Evaluation, subject: Subject, arguments: argparse.Namespace) -> None:
    """That the two passes are of the same images under the same budget, and are counted alike.

    Raises:
        ValueError: if they are not.
    """
    here = {
        "dataset": arguments.dataset,
        "model": arguments.model,
        "threat": {"eps": subject.threat.eps, "clip_values": list(subject.threat.clip_values)},
        "seed": arguments.seed,
        "nb_draws": arguments.draws,
    }
    for name, value in here.items():
        if record.settings.get(name) != value:
            raise ValueError(f"expected a record of {name} {value}, got {record.settings.get(name)}")
    nets, others = subject.nets.names, record.settings.get("nets", {})
    for role in sorted(nets.keys() & others.keys()):
        if nets[role] != others[role]:
            raise ValueError(f"expected a record of {role} {nets[role]}, got {others[role]}: see --nets")
    images = tensors_sha256([subject.x])
    # parts that were put together have a hash of theirs
    if "parts" not in record.settings and record.settings["sha256"]["images"] != images:
        raise ValueError("expected a record of the same images, got one of others")


def rows(
    record: Evaluation, result: Evaluation, numbers: list[int], called: str = "the second pass"
) -> list[dict[str, Any]]:
    """The record; the images attacked again, before, under each attack and after ``called``; all images after it."""
    before = torch.tensor(record.worst.per_image, dtype=torch.float64)
    after = before.clone()
    after[numbers] = torch.tensor(result.worst.per_image, dtype=torch.float64)
    nb_draws, nb_attack_draws = record.settings["nb_draws"], result.settings["nb_attack_draws"]

    def line(
        what: str, shares: torch.Tensor, evaluations: float | str = "-", draws: int = nb_draws, by: Evaluation = result
    ) -> dict[str, Any]:
        seed = int(by.settings["seed"])
        mean = interval(shares, seed)
        found = AttackResult(what, "", "", "", mean)
        return {
            "what": what,
            "images": len(shares),
            **with_interval("accuracy", found),
            "evaluations": evaluations,
            "draws": draws,
            "seed": seed,
        }

    def of(found: AttackResult, draws: int = nb_attack_draws) -> dict[str, Any]:
        return line(found.name, torch.tensor(found.per_image, dtype=torch.float64), found.forward, draws)

    return [
        line("the record, all images", before, by=record),
        line("of these, attacked again: the record", before[numbers], by=record),
        of(result.clean, nb_draws),
        *(of(attack) for attack in result.attacks),
        line(f"after {called}", after[numbers], sum(attack.forward for attack in result.attacks)),
        line(f"all images, after {called}", after),
    ]


if __name__ == "__main__":
    main()
