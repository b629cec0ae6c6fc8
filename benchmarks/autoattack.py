"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690), the standard version, on a net without g: what such a net really keeps.

    python -m benchmarks.autoattack [--dataset cifar10] [--model adversarial] [--images 500]

What the defence is compared with should have met the attack that its field measures by. The four attacks of pyautoattack run one
after the other, each on the images that are still right, as there: APGD on the cross-entropy, targeted APGD and targeted FAB
towards nine classes, Square with 5,000 queries. On a model that draws they stop at the first lucky draw, so that one with a g is
refused. Resumes from --out; `torchrun --nproc-per-node 2 -m benchmarks.autoattack` shares the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from art_advtransform.attacks.base import Attack, Kind, Target
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import ADVERSARIAL
from art_advtransform.records import Evaluation
from art_advtransform.shards import Shards
from benchmarks.columns import column, with_interval
from benchmarks.harness import print_table, write_csv
from benchmarks.subject import Subject, named, options

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
_OTHER_CLASSES = 9  # that it aims at, of more than ten


def main() -> None:
    parser = options(__doc__, images=500)
    parser.set_defaults(dataset="cifar10")
    parser.add_argument(
        "--model", default=ADVERSARIAL, help="of the bundled ones: adversarial, undefended, f_a without g"
    )
    parser.add_argument("--chunk-size", type=int, default=125)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.draws = 1
    subject = Subject.load(arguments)
    models = subject.nets.models()
    if arguments.model not in models:
        parser.error(f"unknown model {arguments.model!r}; known: {', '.join(models)}")
    if models[arguments.model].randomized:
        parser.error(f"expected a model that does not draw, got {arguments.model!r}")
    question = f"autoattack-{column(arguments.model)}"
    result = subject.evaluated(
        [auto_attack(name) for name in STANDARD],
        question,
        arguments,
        model=arguments.model,
        chunk_size=arguments.chunk_size,
    )
    if Shards().is_main:
        table = rows(result)
        print_table(table)
        print(f"written to {write_csv(named(question, arguments), table)}")


def auto_attack(name: str) -> Attack:
    """One of the four, with the numbers of the standard version.

    Raises:
        ValueError: if ``name`` is none of them.
    """
    if name not in STANDARD:
        raise ValueError(f"unknown part of AutoAttack {name!r}; known: {', '.join(STANDARD)}")

    def generate(target: Target, model: DefendedModel) -> Tensor:
        import pyautoattack

        attack = pyautoattack.AutoAttack(
            model,
            norm="Linf",
            eps=target.threat.eps,
            version="standard",
            seed=target.global_seed % 2**31,
            device=target.x.device,
        )
        attack.attacks_to_run = [name]
        nb_targets = min(target.nb_classes - 1, _OTHER_CLASSES)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = nb_targets
        attacked: Tensor = attack.run_standard_evaluation(target.x, target.y, batch_size=len(target.x))[0]
        return attacked

    kind: Kind = "black box" if name == "square" else "white box"
    return Attack(f"AutoAttack: {name}", generate, kind, toolkit="pyautoattack", method="AutoAttack", continues=True)


def rows(result: Evaluation) -> list[dict[str, Any]]:
    """Without an attack, after each of the four, and after all."""
    settings = result.settings
    told = {name: settings[name] for name in ("model", "skip", "nb_images", "seed")}
    told["images"] = told.pop("nb_images")
    return [
        {
            "attack": found.name,
            "attacked": found.nb_attacked if found in result.attacks else "-",
            **with_interval("accuracy", found),
            "passes": found.forward,
            "differentiated": found.backward,
            "process_minutes": found.seconds / 60,
            **told,
        }
        for found in (result.clean, *result.attacks, result.worst)
    ]


if __name__ == "__main__":
    main()
