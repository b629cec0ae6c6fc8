"""What does training with the defence cost, beside standard and PGD adversarial training of the same f_a?

The paper (appendix B): 56, 82 and 460 minutes, that is 1.46 and 8.2 times standard training. Seconds for 1,000 images, forward,
backward and step, and what that makes of 80 epochs of 50,000; with a bank that is redrawn every K epochs, g costs 1/K of what it
costs with fresh draws, and reading half precision back is part of the measurement.

    python -m benchmarks.training_cost [--width 64] [--images 256]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from art_advtransform import LLPGDTransform, ResNet18, SmallVGG, ThreatModel
from art_advtransform.bank import TransformBank
from art_advtransform.datasets import ImageSet
from art_advtransform.losses import Loss, adversarial_loss, defended_loss, plain_loss
from art_advtransform.randomness import global_seed, keyed_generator
from art_advtransform.training import Recipe, fit, start_accelerator
from benchmarks.harness import images, interleaved, print_table, table4_net, write_csv
from benchmarks.pictures import ratio_figure

# f_b by the widths of its four blocks; Table 4's is in the middle.
F_B = {"f_b x 1/2": (32, 64, 64, 64), "f_b of Table 4": (64, 128, 128, 128), "f_b x 2": (128, 256, 256, 256)}
BANKS = (2, 3, 10)
_BATCH_SIZE = Recipe().batch_size
# appendix B: minutes of 80 epochs, with fresh draws of g; the steps of its adversarial training it doesn't tell
_PAPER_WIDTH = 64
_PAPER = {"standard": 56, "defence, f_b of Table 4": 82, "PGD-10 adversarial": 460}
_ALL_EPOCHS = 80 * 50  # of 1,000 images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=_PAPER_WIDTH, help="of f_a, a ResNet18; 64 is the paper's")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.images < _BATCH_SIZE:
        parser.error(f"expected --images >= {_BATCH_SIZE}, a batch, got {arguments.images}")
    device = start_accelerator().device  # where `fit` trains
    rows = measure(arguments.width, arguments.images, arguments.rounds, device)
    print_table(rows)
    path = write_csv(f"training_cost-width{arguments.width}", rows, device.type)
    print(f"written to {path}")
    told = f"time over that of standard training, f_a of width {arguments.width}, {device.type} (the paper's PGD: steps not told)"
    picture = path.with_name(f"training_cost-width{arguments.width}-{device.type}.png")
    print(f"written to {ratio_figure(rows, 'training', 'over_standard', told, picture)}")


def measure(width: int, n: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Seconds per 1,000 images of every way to train, and the ratio to standard training."""
    data = ImageSet("random", images(n), torch.randint(10, (n,), generator=keyed_generator(0)), ())
    with global_seed(0):
        f_a = ResNet18(width=width)
        f_bs: dict[str, nn.Module] = {name: SmallVGG(widths=widths) for name, widths in F_B.items()}
    f_bs["f_b of Table 4"] = table4_net()
    steps: dict[str, Callable[[], Any]] = {
        "standard": epoch(f_a, data, plain_loss),
        "PGD-10 adversarial": epoch(f_a, data, adversarial_loss(ThreatModel(), max_iter=10)),
    }
    for name, f_b in f_bs.items():
        steps[f"defence, {name}"] = epoch(f_a, data, defended_loss(LLPGDTransform(f_b, device=device)))
    bank = TransformBank(LLPGDTransform(f_bs["f_b of Table 4"], device=device), data.x, redraw_every=10**6)
    bank(0)
    steps["on a bank that is there"] = lambda: fit(f_a, data, plain_loss, Recipe(1), images=bank)
    timings = interleaved(steps, rounds)
    per_thousand = {name: 1000 * timing.median / trained_on(n) for name, timing in timings.items()}
    on_bank, fresh = per_thousand["on a bank that is there"], per_thousand["defence, f_b of Table 4"]
    for every in BANKS:
        per_thousand[f"defence, bank redrawn every {every} epochs"] = on_bank + (fresh - on_bank) / every
    paper = _PAPER if width == _PAPER_WIDTH else {}
    return [
        {
            "training": name,
            "s_per_1000_images": seconds,
            "minutes_of_80_epochs": seconds * _ALL_EPOCHS / 60,
            "over_standard": seconds / per_thousand["standard"],
            "paper_minutes": paper.get(name, "-"),
            "paper_over_standard": paper[name] / paper["standard"] if name in paper else "-",
            "images": trained_on(n),
            "batch_size": _BATCH_SIZE,
            "rounds": rounds,
        }
        for name, seconds in per_thousand.items()
    ]


def trained_on(n: int) -> int:
    """Images of an epoch of ``n``: what does not fill a batch is left out."""
    return n // _BATCH_SIZE * _BATCH_SIZE


def epoch(f_a: nn.Module, data: ImageSet, loss: Loss) -> Callable[[], Any]:
    """An epoch of training on ``data``."""
    return lambda: fit(f_a, data, loss, Recipe(1))


if __name__ == "__main__":
    main()
