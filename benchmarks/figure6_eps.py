"""Figs. 6 and 7: accuracy against eps of g (standard, BPDA-I, white-box transfer), and against the EOT draws for several eps.

    python -m benchmarks.figure6_eps [--scale digits | cpu | paper]

For every eps an f_a is trained on its g. The paper finds eps = 0.2 best, and that there draws beyond a few change
little, while at a small eps they help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_identity, white_box_transfer
from art_advtransform.config import TransformConfig
from art_advtransform.figures import curve_figure
from benchmarks.columns import point, trained, with_interval
from benchmarks.workshop import Workshop

EPS = (0.05, 0.1, 0.2, 0.3)
# Table 1, at eps = 0.2; the figures' own numbers are not in the paper's text
PAPER_STANDARD, PAPER_BPDA = 82.9, 80.5
DRAWS = {"digits": (1, 3, 10), "cpu": (1, 3, 10, 50), "paper": (1, 10, 100, 500)}


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    recipes = {f"f_a-eps{eps}": shop.recipe("f_a-defended", transform=TransformConfig(eps=eps)) for eps in EPS}
    nets = shop.nets({"f_b-adversarial": shop.recipe("f_b-adversarial"), **recipes})
    max_iter, draws = shop.scale.max_iter, DRAWS[shop.name]
    attacks = [
        *(bpda_identity(max_iter, n) for n in draws),
        white_box_transfer(max_iter),
        momentum_pgd(shop.scale.climb),
    ]
    rows: list[dict[str, Any]] = []
    for eps in EPS:
        config = TransformConfig(eps=eps)
        found = shop.evaluate(f"figure6-{eps}", nets[f"f_a-eps{eps}"], nets["f_b-adversarial"], attacks, config)
        bpda: dict[str, Any] = {}
        for n, attacked in zip(draws, found.attacks, strict=False):
            bpda |= with_interval(f"bpda_identity_{n}", attacked)
        rows.append(
            {
                "eps_of_g": eps,
                **trained(shop.card(f"f_a-eps{eps}"), shop.card("f_b-adversarial")),
                **with_interval("standard", found.clean),
                "paper_standard": PAPER_STANDARD if eps == TransformConfig().eps else "-",
                **bpda,
                "paper_bpda_identity": PAPER_BPDA if eps == TransformConfig().eps else "-",
                **with_interval("white_box_transfer", found.attacks[-2]),
                **with_interval("momentum_pgd", found.attacks[-1]),
            }
        )
    shop.write("figure6", rows)
    draw_eps(shop, rows, draws)
    draw_draws(shop, rows, draws)


def draw_eps(shop: Workshop, rows: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> None:
    """Fig. 6."""
    shown = ("standard", f"bpda_identity_{draws[-1]}", "white_box_transfer", "momentum_pgd")
    curves = {name: [point(row["eps_of_g"], row, name) for row in rows] for name in shown}
    marks = {
        "the paper's, standard and BPDA-I": [
            (TransformConfig().eps, PAPER_STANDARD),
            (TransformConfig().eps, PAPER_BPDA),
        ]
    }
    path = shop.picture("figure6")
    print(f"written to {curve_figure(curves, 'accuracy against eps of g', path, marks=marks, note=shop.note)}")


def draw_draws(shop: Workshop, rows: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> None:
    """Fig. 7; the paper's number is of more draws than most scales have, and stands beside them all."""
    curves: dict[str, list[tuple[float | None, ...]]] = {
        f"eps {row['eps_of_g']}": [point(n, row, f"bpda_identity_{n}") for n in draws] for row in rows
    }
    curves["the paper's, eps 0.2, 500 draws"] = [(n, PAPER_BPDA) for n in (draws[0], draws[-1])]
    path = shop.picture("figure7")
    print(f"written to {curve_figure(curves, 'accuracy under BPDA-I against EOT draws', path, note=shop.note)}")


if __name__ == "__main__":
    main()
