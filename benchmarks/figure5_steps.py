"""Fig. 5 and Table 5: accuracy under unrolled BPDA (soft sign, tanh) against the steps N of g, and its examples fed to N = 13.

    python -m benchmarks.figure5_steps [--scale digits | cpu | paper]

For every N an f_a is trained on g of N steps. BPDA as in the paper: eq. 5 for the projection, through all steps. Beside it BPDA-I
with momentum, which the paper does not have: where BPDA fails with N and this does not, it is the attack that fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_unrolled
from art_advtransform.attacks.base import Attack
from art_advtransform.config import TransformConfig
from art_advtransform.counting import SCORING, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.figures import curve_figure
from art_advtransform.layer import LLPGDTransform
from art_advtransform.store import read_attacked
from art_advtransform.unrolled import Softsign, Tanh
from benchmarks.harness import RESULTS
from benchmarks.scales import Workshop, per_cent

STEPS = (1, 3, 5, 7, 10, 13)
# Table 5, N from small to 13; only the first and last of the transfer accuracies are legible
PAPER_STANDARD = {3: 81.7, 5: 82.4, 7: 83.1, 10: 82.7, 13: 82.9}


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    f_b_recipe = {"f_b-adversarial": shop.recipe("f_b-adversarial")}
    recipes = {f"f_a-N{n}": shop.recipe("f_a-defended", transform=TransformConfig(max_iter=n)) for n in STEPS}
    nets = shop.nets({**f_b_recipe, **recipes})
    f_b = nets["f_b-adversarial"]
    rows: list[dict[str, Any]] = []
    for n in STEPS:
        found = shop.evaluate(f"figure5-{n}", nets[f"f_a-N{n}"], f_b, attacks(shop), TransformConfig(max_iter=n))
        rows.append(
            {
                "N": n,
                "standard": per_cent(found),
                "paper_standard": PAPER_STANDARD.get(n, "-"),
                "softsign": per_cent(found, 0),
                "tanh": per_cent(found, 1),
                "momentum_pgd": per_cent(found, 2),
                "softsign_examples_at_13": transferred(shop, n, nets[f"f_a-N{STEPS[-1]}"], f_b),
            }
        )
    shop.write("figure5", rows)
    curves = {
        name: [(row["N"], row[name]) for row in rows] for name in ("standard", "softsign", "tanh", "momentum_pgd")
    }
    print(f"written to {curve_figure(curves, 'accuracy against N', RESULTS / f'figure5-{shop.name}.png')}")


def attacks(shop: Workshop) -> list[Attack]:
    """The paper's two, and ours."""
    draws = max(shop.scale.eot_samples // 5, 1)
    return [
        bpda_unrolled(Softsign(projection="mask"), "soft sign and eq. 5", shop.scale.max_iter, draws),
        bpda_unrolled(Tanh(projection="mask"), "tanh and eq. 5", shop.scale.max_iter, draws),
        momentum_pgd(200),
    ]


def transferred(shop: Workshop, n: int, f_a: nn.Module, f_b: nn.Module) -> float:
    """Table 5: accuracy of the N = 13 defence on the soft-sign examples made for ``n`` steps, in per cent."""
    name, folder = attacks(shop)[0].name, shop.home / f"figure5-{n}"
    attacked = torch.stack([read_attacked(folder, name, 50, i) for i in range(len(shop.attacked))])
    model = DefendedModel(f_a, LLPGDTransform(f_b, TransformConfig(max_iter=STEPS[-1])))
    right = predictions(model, attacked, shop.scale.draws, shop.seed, SCORING) == shop.attacked.y[:, None]
    return 100 * float(right.double().mean())


if __name__ == "__main__":
    main()
