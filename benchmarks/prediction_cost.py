"""What does predicting with the defence cost, beside the same f_a without it?

The paper (appendix B): 10,000 CIFAR-10 images take 17 s with the defence and 4 s without, 4.3 times. Here images in
batches of 128, interleaved; fewer than 10,000 stand for them by their rate.

    python -m benchmarks.prediction_cost [--images 10000] [--rounds 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from art_advtransform import DefendedModel, LLPGDTransform, ResNet18
from art_advtransform.randomness import global_seed
from benchmarks.harness import images, interleaved, print_table, table4_net, write_csv
from benchmarks.pictures import ratio_figure

# Widths of f_a, a ResNet18: that of the bundled nets, and the paper's.
_PAPER_WIDTH = 64
WIDTHS = (20, _PAPER_WIDTH)
_BATCH_SIZE = 128
_PAPER_WITH, _PAPER_WITHOUT = 17, 4  # seconds, f_a of width 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = measure(arguments.images, arguments.rounds, device)
    print_table(rows)
    path = write_csv("prediction_cost", rows, device.type)
    print(f"written to {path}")
    told = f"time with the defence over that without, {arguments.images:,} images, {device.type}"
    picture = path.with_name(f"prediction_cost-{device.type}.png")
    print(f"written to {ratio_figure(rows, 'width_of_f_a', 'ratio', told, picture)}")


def measure(n: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Seconds for 10,000 images without g and with it, and their ratio, for every width of f_a."""
    x, g = images(n), LLPGDTransform(table4_net(), device=device)
    models: dict[str, DefendedModel] = {}
    for width in WIDTHS:
        with global_seed(0):
            f_a = ResNet18(width=width).eval().to(device)
        models[f"{width}, f_a"] = DefendedModel(f_a, None).eval()
        models[f"{width}, f_a(g)"] = DefendedModel(f_a, g).eval()

    def predict(model: DefendedModel) -> Callable[[], Any]:
        @torch.no_grad()
        def run() -> None:
            for part in x.split(_BATCH_SIZE):
                model(part.to(device))

        return run

    timings = interleaved({name: predict(model) for name, model in models.items()}, rounds)
    rows = []
    for width in WIDTHS:
        without, with_g = (timings[f"{width}, {name}"].median * 10_000 / n for name in ("f_a", "f_a(g)"))
        rows.append(
            {
                "width_of_f_a": width,
                "s_per_10000_without": without,
                "s_per_10000_with": with_g,
                "ratio": with_g / without,
                "paper_s_per_10000_without": _PAPER_WITHOUT if width == _PAPER_WIDTH else "-",
                "paper_s_per_10000_with": _PAPER_WITH if width == _PAPER_WIDTH else "-",
                "paper_ratio": _PAPER_WITH / _PAPER_WITHOUT if width == _PAPER_WIDTH else "-",
                "images": n,
                "batch_size": _BATCH_SIZE,
                "rounds": rounds,
            }
        )
    return rows


if __name__ == "__main__":
    main()
