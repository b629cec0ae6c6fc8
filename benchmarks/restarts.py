"""What a record of the preset strong left of the defended net, attacked again from other starts.

    python -m benchmarks.restarts --record runs/strong-0/defended [--kept FILE] [--restarts 3]

The preset's own attacks go on from the strongest result so far, and may be caught where the first of them led. Here every image
that the record left right in more than --left of its draws is attacked --restarts times from a random start of its own: long
momentum on one draw, aggregated momentum on ten, steering, and a climb of the margin from where that led, at a tenth of the
preset's budget. What the record found (:mod:`benchmarks.kept_images`) stands beside the restarts. The worst is chosen by other
draws than score it, none of them the record's, and counts. Resumes from --out; `torchrun --nproc-per-node 2 -m
benchmarks.restarts` shares the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target, View, from_function
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.steering import steered_pgd
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import DEFENDED
from art_advtransform.randomness import derived_seed
from art_advtransform.records import Evaluation
from art_advtransform.shards import Shards
from benchmarks.harness import print_table, write_csv
from benchmarks.second_pass import command, left_by, rows
from benchmarks.subject import named


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--record", type=Path, required=True, help="folder of the evaluation of the defended net")
    parser.add_argument("--kept", type=Path, default=None, help="file of kept_images; kept.safetensors in --record")
    parser.add_argument("--restarts", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.restarts < 1:
        parser.error(f"expected --restarts >= 1, got {arguments.restarts}")
    arguments.model = DEFENDED
    record = Evaluation.load(arguments.record / "evaluation.json")
    subject, numbers = left_by(record, arguments, parser)
    csv = named("restarts", arguments)  # after the record's seed
    arguments.seed += 1  # what the record found was chosen by its own draws
    kept = load_file(arguments.record / "kept.safetensors" if arguments.kept is None else arguments.kept)
    found = found_before(subject.x, [arguments.skip + i for i in numbers], kept)
    result = subject.evaluated(
        [found, *(restart(chain(), number) for number in range(1, arguments.restarts + 1))],
        "restarts",
        arguments,
        nb_attack_draws=min(arguments.draws, 20),
        chunk_size=arguments.chunk_size,
        about={"numbers": numbers},
    )
    if Shards().is_main:
        table = rows(record, result, numbers, "the restarts")
        print_table(table)
        print(f"written to {write_csv(csv, table)}")


def chain() -> list[Attack]:
    """What a restart is made of, as the preset has it at a tenth of its budget."""
    return [
        expectation_pgd(200, 1, momenta=(0.9,), eps_steps=(1 / 8, 1 / 40)),
        expectation_pgd(20, 10, momenta=(0, 0.9, 0.99)),
        steered_pgd(8, 4),
        expectation_pgd(40, 4, momenta=(0.9,)),
    ]


def restart(attacks: Sequence[Attack], number: int) -> Attack:
    """``attacks`` one after the other, each from where the one before it ended, and the first from a random start."""

    def generate(target: Target, model: DefendedModel) -> Tensor:
        own = replace(target, best=None, alive=None, seed=derived_seed(target.seed, number))
        for attack in attacks:
            with own.seen(attack.view) as seen:
                own = replace(own, best=own.project(attack.generate(own, seen).detach()))
        assert own.best is not None
        return own.best

    cost = sum(attack.cost for attack in attacks)
    return Attack(f"restart {number}", generate, view=View(uses_g=True), method="restart", cost=cost)


def found_before(x: Tensor, numbers: Sequence[int], kept: dict[str, Tensor]) -> Attack:
    """The images of ``kept`` as an attack on ``x``, whose numbers in the sample are given.

    Raises:
        ValueError: if it does not hold all of them.
    """
    images = dict(zip(kept["numbers"].tolist(), kept["images"], strict=True))
    lacking = [number for number in numbers if number not in images]
    if lacking:
        raise ValueError(f"expected all images that are left, {len(lacking)} are not kept: number {lacking[0]} first")
    found = {_bytes(clean): images[number] for clean, number in zip(x, numbers, strict=True)}

    def look_up(clean: Tensor, y: Tensor) -> Tensor:
        return torch.stack([found[_bytes(image)] for image in clean]).to(clean)

    return from_function("what the record found", look_up)


def _bytes(image: Tensor) -> bytes:
    return image.cpu().numpy().tobytes()


if __name__ == "__main__":
    main()
