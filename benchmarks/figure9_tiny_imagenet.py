"""Fig. 9 on Tiny ImageNet: the difference E[g(x)] - x against the epochs of f_b; on CIFAR-10 it is Fig. 4, see Table 1.

    python -m benchmarks.figure9_tiny_imagenet [--scale digits | cpu | paper]

At the scale digits, digits stand in for it. At cpu the plain f_b have fewer epochs than on CIFAR-10.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.columns import trained
from benchmarks.table1_external_models import (
    ADVERSARIAL,
    NB_DRAWS,
    NB_EXPECTED,
    difference,
    draw_differences,
    external_models,
    plain_kinds,
)
from benchmarks.workshop import Workshop


def main() -> None:
    shop = Workshop.from_command_line(__doc__, dataset="tiny_imagenet")
    kinds = [*plain_kinds(shop), ADVERSARIAL]
    recipes = external_models(shop)
    f_bs = shop.nets({f"f_b-{kind}": recipes[f"f_b-{kind}"] for kind in kinds})
    rows: list[dict[str, Any]] = []
    shown: dict[str, Tensor] = {}
    for kind in kinds:
        shown[kind], far = difference(shop, f_bs[f"f_b-{kind}"])
        measured = {"images": NB_EXPECTED[shop.name], "draws": NB_DRAWS[shop.name]}
        rows.append({"f_b": kind, **trained(shop.card(f"f_b-{kind}")), **far, **measured})
    shop.write("figure9", rows)
    draw_differences(shop, "figure9", shown)


if __name__ == "__main__":
    main()
