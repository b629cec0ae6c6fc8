"""Is the time of g(x) a straight line in the steps, the images and the draws, for images of 32 and of 64 pixels?

Each series changes one number and keeps the others; a line is fitted by least squares, its slope and R^2 are printed and drawn.

    python -m benchmarks.scaling
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from art_advtransform import DefendedModel, LLPGDTransform, TransformConfig
from benchmarks.harness import RESULTS, images, interleaved, print_table, table4_net, write_csv

SIZES = (32, 64)
SERIES: dict[str, tuple[int, ...]] = {
    "steps": (1, 5, 13, 26, 40),
    "images": (32, 64, 128, 192, 256),
    "draws": (1, 2, 4, 6, 8),
}
ROUNDS = 3


def main() -> None:
    rows: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for size in SIZES:
        net = table4_net(input_size=size)
        for what, values in SERIES.items():
            timings = interleaved({str(v): case(net, size, what, v) for v in values}, ROUNDS)
            points = [(v, timings[str(v)].median) for v in values]
            rows += [{"image_size": size, "against": what, "value": v, "median_s": s} for v, s in points]
            lines.append({"image_size": size, "against": what, **fit(points)})
    print_table(rows)
    print_table(lines)
    print(f"written to {write_csv('scaling', rows)} and {write_csv('scaling_lines', lines)}")
    print(f"figure: {draw(rows, lines)}")


def case(net: nn.Module, size: int, what: str, value: int) -> Callable[[], Any]:
    """One call: 64 images and 13 steps, or 32 images for the draws, with one number replaced by ``value``."""
    if what == "steps":
        x = images(64, size)
        transform = LLPGDTransform(net, TransformConfig(max_iter=value))
        return lambda: transform(x)
    if what == "images":
        x, transform = images(value, size), LLPGDTransform(net)
        return lambda: transform(x)
    x, f_a = images(32, size), nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 10))
    defended = DefendedModel(f_a, LLPGDTransform(net), eot_samples=value).eval()

    def run() -> None:
        with torch.no_grad():
            defended(x)

    return run


def fit(points: list[tuple[int, float]]) -> dict[str, float]:
    """Least-squares line."""
    x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - slope * x - intercept
    return {
        "slope_s": float(slope),
        "intercept_s": float(intercept),
        "r_squared": float(1 - residual.var() / y.var()),
    }


def draw(rows: list[dict[str, Any]], lines: list[dict[str, Any]]) -> str:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(SERIES)), SERIES, strict=True):
        for i, line in enumerate(found for found in lines if found["against"] == what):
            size = line["image_size"]
            points = [(r["value"], r["median_s"]) for r in rows if (r["image_size"], r["against"]) == (size, what)]
            x = np.array([0, points[-1][0]])
            axes.plot(*zip(*points, strict=True), "o", color=f"C{i}")
            label = f"{size} px: {1000 * line['slope_s']:.3g} ms each, R² {line['r_squared']:.4f}"
            axes.plot(x, line["intercept_s"] + line["slope_s"] * x, color=f"C{i}", label=label)
        axes.set_xlabel(what)
        axes.set_ylabel("seconds")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    path = RESULTS / "scaling.png"
    figure.savefig(path, dpi=120)
    return str(path)


if __name__ == "__main__":
    main()
