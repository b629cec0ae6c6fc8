"""Table 6: Tiny ImageNet (64x64, 200 classes): standard and worst accuracy of this defence beside others.

    python -m benchmarks.table6_tiny_imagenet [--scale digits | cpu | paper]

At the scale digits, digits stand in for it: the same code in minutes. The Tiny ImageNet at hand may have fewer training images a
class than the original's 500; how many is in the table.
"""

from __future__ import annotations

from typing import Any

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import black_box_transfer, bpda_identity, white_box_transfer
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.evaluation import Evaluation
from benchmarks.columns import per_cent, trained, with_interval
from benchmarks.workshop import Workshop

# standard accuracy and the worst
PAPER = {
    "none": (58.2, 0.0),
    "PGD adversarial training (Madry)": (42.7, 17.3),
    "TRADES (Zhang)": (40.6, 17.7),
    "metric learning (Mao)": (40.9, 17.5),
    "this defence": (48.8, 40.2),
}


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
        black_box_transfer(shop.scale.max_iter),  # the best on this defence, says the paper
        white_box_transfer(shop.scale.max_iter),
        bpda_identity(shop.scale.max_iter, shop.scale.eot_samples),
        momentum_pgd(shop.scale.climb),
        expectation_pgd(shop.scale.max_iter, 4, momenta=(0.0, 0.9)),
    ]
    roles = ("undefended", "adversarial", "trades", "metric", "f_a-defended")
    rows: list[dict[str, Any]] = []
    for (name, paper), role in zip(PAPER.items(), roles, strict=True):
        f_b = nets["f_b-adversarial"] if role == "f_a-defended" else None
        # "none" is not attacked through itself
        others = {name: net for name, net in surrogates.items() if name != role}
        found: Evaluation = shop.evaluate(f"table6-{role}", nets[role], f_b, attacks, surrogates=others)
        rows.append(
            {
                "method": name,
                **trained(recipes[role]),
                "standard": per_cent(found),
                "black_box_transfer": per_cent(found, 0),
                "white_box_transfer": per_cent(found, 1),
                "bpda_identity": per_cent(found, 2),
                **with_interval("worst", found.worst),
                "paper_standard": paper[0],
                "paper_bpda": 47.9 if f_b is not None else "-",
                "paper_worst": paper[1],
            }
        )
    rows = shop.write("table6", rows)
    shop.draw("table6", rows, "method", ("standard", "worst"))


if __name__ == "__main__":
    main()
