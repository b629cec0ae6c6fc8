"""Table 6: Tiny ImageNet (64x64, 200 classes): standard and worst accuracy of this defence beside others.

    python -m benchmarks.table6_tiny_imagenet [--scale digits | cpu | paper]

Nets without g meet APGD as well, this defence an attack of more draws, from where the others ended. At the scale digits, digits
stand in for it: the same code in minutes. The Tiny ImageNet at hand may have fewer training images than the original's 500 a class,
100,000 in all; how many is in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from art_advtransform.attacks.art_attacks import (
    black_box_transfer,
    external_transfer,
    white_box_transfer,
)
from art_advtransform.records import Evaluation
from benchmarks.columns import called, each_attack, more_than_adversarial, trained, up_to, with_interval, worst
from benchmarks.other_defences import along_gradients, of_many_draws, without_draws
from benchmarks.workshop import Workshop

# standard accuracy, the worst, and its attack
PAPER = {
    "none": (58.2, 0.0, "PGD"),
    "PGD adversarial training (Madry)": (42.7, 17.3, "PGD"),
    "TRADES (Zhang)": (40.6, 17.7, "PGD"),
    "metric learning (Mao)": (40.9, 17.5, "PGD"),
    "this defence": (48.8, 40.2, "transfer"),
}
DEFENDED = "f_a-defended"
ROLES = dict(zip(PAPER, ("undefended", "adversarial", "trades", "metric", DEFENDED), strict=True))
IMPLEMENTATIONS = {"metric": "losses.metric_loss", "f_a-defended": "this package"}


def main() -> None:
    shop = Workshop.from_command_line(__doc__, dataset="tiny_imagenet")
    recipes = {
        "f_b-adversarial": shop.recipe("f_b-adversarial"),
        "f_a-defended": shop.recipe("f_a-defended"),
        "undefended": shop.recipe("undefended"),
        "adversarial": shop.adversarial("adversarial"),
        "trades": shop.adversarial("trades"),
        "metric": shop.adversarial("metric"),
        "surrogate": shop.surrogate(),
    }
    nets = shop.nets(recipes)
    surrogates = {name: nets[name] for name in ("surrogate", "undefended")}
    attacks = [
        *(bpda := along_gradients(shop.scale.max_iter, shop.scale.climb, shop.scale.eot_samples)),
        black_box_transfer(shop.scale.max_iter),  # the best on this defence, says the paper
    ]
    evaluations: dict[str, Evaluation] = {}
    for role in ROLES.values():
        # "none" is not attacked through itself; from f_a without g, and from f_b, there is a transfer only where there is a g
        others = {other: net for other, net in surrogates.items() if other != role}
        through_g = (
            white_box_transfer(shop.scale.max_iter),
            external_transfer(shop.scale.max_iter),
            of_many_draws(shop.scale.climb, 4, continues=True),
        )
        f_b = nets["f_b-adversarial"] if role == DEFENDED else None
        tried = [*attacks, *(without_draws(shop.scale.climb) if f_b is None else through_g)]
        evaluations[role] = shop.evaluate(f"table6-{role}", nets[role], f_b, tried, surrogates=others)
    rows = [row(shop, name, evaluations, len(bpda)) for name in ROLES]
    found = {name: each_attack(name, evaluations[role], role == DEFENDED) for name, role in ROLES.items()}
    shop.write("table6-attacks", [attack for attacks in found.values() for attack in attacks])
    rows = shop.write("table6", rows)
    shop.draw("table6", rows, "method", ("standard", "bpda", "worst"))


def row(shop: Workshop, name: str, evaluations: Mapping[str, Evaluation], nb_bpda: int) -> dict[str, Any]:
    """Of the net called ``name`` in the paper, whose first ``nb_bpda`` attacks are BPDA-I, and the next is transfer."""
    role, paper = ROLES[name], PAPER[name]
    found, defended = evaluations[role], role == DEFENDED
    return {
        "method": called(name, shop.card(role)),
        "implementation": IMPLEMENTATIONS.get(role, "our loop"),
        **trained(shop.card(role), shop.card("f_b-adversarial") if defended else None),
        **with_interval("standard", found.clean),
        **with_interval("black_box_transfer", found.attacks[nb_bpda]),
        **up_to("bpda", found.attacks[nb_bpda - 1]),
        **worst(found, defended),
        **more_than_adversarial(found, evaluations["adversarial"], shop.seed),
        "paper_standard": paper[0],
        "paper_bpda": 47.9 if defended else "-",
        "paper_worst": paper[1],
        "paper_attack": paper[2],
    }


if __name__ == "__main__":
    main()
