"""Fig. 3: finite differences of g along one direction, against the step h: do they settle, explode or vanish?

    python -m benchmarks.figure3_differences [--scale digits | cpu | paper]

|d_D(x + h v) - d_D(x)| / (h |v|) with d = g - identity, the same D on both sides, v of signs, in float64. Where d is piecewise
constant it is zero for every h that crosses no jump; the larger h, the more jumps it crosses. The share of images without
any is beside.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from art_advtransform.figures import curve_figure
from art_advtransform.layer import LLPGDTransform
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import random_start
from benchmarks.workshop import Workshop

STEPS = tuple(10.0**k for k in range(-8, 0))


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    f_b = shop.nets({"f_b-adversarial": shop.recipe("f_b-adversarial")})["f_b-adversarial"]
    g = LLPGDTransform(copy.deepcopy(f_b).double())
    x, generator = shop.attacked.x.double(), keyed_generator(shop.seed)
    start = random_start(x, g.config.eps, generator)
    v = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    rows = []
    for h in STEPS:
        slopes = differences(g, x, start, v, h)
        rows.append(
            {
                "h": h,
                "mean": float(slopes.mean()),
                "median": float(slopes.median()),
                "max": float(slopes.max()),
                "without_a_jump": 100 * float((slopes * h < 1e-12).double().mean()),
                "draws": 1,
            }
        )
    shop.write("figure3", rows)
    curves = {name: [(row["h"], row[name]) for row in rows] for name in ("mean", "median", "max")}
    path = shop.picture("figure3")
    print(f"written to {curve_figure(curves, 'finite difference of g - x against h', path, logarithmic=True)}")


def differences(g: LLPGDTransform, x: Tensor, start: Tensor, v: Tensor, h: float) -> Tensor:
    """For each image (n,)."""
    with torch.no_grad():
        change = (g(x + h * v, start) - (x + h * v)) - (g(x, start) - x)
    slopes: Tensor = change.flatten(1).norm(dim=1) / (h * v.flatten(1).norm(dim=1))
    return slopes


if __name__ == "__main__":
    main()
