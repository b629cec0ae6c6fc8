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
from art_advtransform.attacks.base import Attack
from art_advtransform.records import Evaluation
from benchmarks.columns import (
    IDENTITY,
    OWN_GRADIENT,
    called,
    each_attack,
    more_than_adversarial,
    trained,
    up_to,
    with_interval,
    worst,
)
from benchmarks.other_defences import NB_ALONG_GRADIENTS, along_gradients, of_many_draws, without_draws
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
    evaluations: dict[str, Evaluation] = {}
    for role in ROLES.values():
        # "none" is not attacked through itself; from f_a without g, and from f_b, there is a transfer only where there is a g
        others = {other: net for other, net in surrogates.items() if other != role}
        f_b, tried = nets["f_b-adversarial"] if role == DEFENDED else None, attacks(shop, defended=role == DEFENDED)
        evaluations[role] = shop.evaluate(f"table6-{role}", nets[role], f_b, tried, surrogates=others)
    rows = [row(shop, name, evaluations) for name in ROLES]
    told = [one for name, role in ROLES.items() for one in each_attack(name, evaluations[role], along(role))]
    shop.write("table6-attacks", told)
    rows = shop.write("table6", rows)
    shop.draw("table6", rows, "method", ("standard", "bpda", "worst"))


def attacks(shop: Workshop, *, defended: bool) -> list[Attack]:
    """Of all rows, ``NB_ALONG_GRADIENTS`` first and then transfer; on nets without g APGD, on this defence transfer from its parts
    and an attack of more draws, from where the others ended.
    """
    scale = shop.scale
    through_g = white_box_transfer(scale.max_iter), external_transfer(scale.max_iter)
    return [
        *along_gradients(scale.max_iter, scale.climb, scale.eot_samples),
        black_box_transfer(scale.max_iter),  # the best on this defence, says the paper
        *([*through_g, of_many_draws(scale.climb, 4, continues=True)] if defended else without_draws(scale.climb)),
    ]


def along(role: str) -> str:
    """What attacks on it follow, see :func:`~benchmarks.columns.named`."""
    return IDENTITY if role == DEFENDED else OWN_GRADIENT


def row(shop: Workshop, name: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Of the net called ``name`` in the paper."""
    role, paper = ROLES[name], PAPER[name]
    found, defended = evaluations[role], role == DEFENDED
    return {
        "method": called(name, shop.card(role)),
        "implementation": IMPLEMENTATIONS.get(role, "our loop"),
        **trained(shop.card(role), shop.card("f_b-adversarial") if defended else None),
        **with_interval("standard", found.clean),
        **with_interval("black_box_transfer", found.attacks[NB_ALONG_GRADIENTS]),
        **up_to("bpda", found.attacks[NB_ALONG_GRADIENTS - 1]),
        **worst(found, along(role)),
        **more_than_adversarial(found, evaluations["adversarial"], shop.seed),
        "paper_standard": paper[0],
        "paper_bpda": 47.9 if defended else "-",
        "paper_worst": paper[1],
        "paper_attack": paper[2],
    }


if __name__ == "__main__":
    main()
