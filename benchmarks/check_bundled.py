"""Are the bundled nets as good as their cards say? Every accuracy again, from the files, on the full test set.

    python -m benchmarks.check_bundled [--dataset cifar10] [--data-root FOLDER] [--images 1000]

CIFAR-10's nets take about an hour on two cores, most of it g; ``--images`` takes a fixed, mixed sample of the test set.

Clean accuracy; through g, mean of 5 draws, for those behind it; under PGD-20 (steps of eps / 4, random start) for those
trained against it. Ends with 1 where one is further from its card than three standard errors of so many images, the card's and
these.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from art_advtransform import DefendedModel, LLPGDTransform
from art_advtransform.datasets import ImageSet, load_dataset
from art_advtransform.measuring import DRAWS, pgd_images
from art_advtransform.pretrained import bundled_names, load_pretrained, read_card
from art_advtransform.randomness import keyed_generator
from art_advtransform.recipes import THREATS, Net
from benchmarks.harness import print_table, progress, write_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--images", type=int, default=None, help="of the test set instead of all")
    arguments = parser.parse_args()
    names = [name for name in bundled_names() if name.startswith(f"{arguments.dataset}/")]
    names = [name for name in names if "test_accuracy" in read_card(name)]  # an imitation of g classifies nothing
    if not names:
        parser.error(f"no bundled nets for {arguments.dataset!r}; there are: {', '.join(bundled_names())}")
    test = load_dataset(arguments.dataset, "test", arguments.data_root)
    if arguments.images is not None:
        test = test.sample(arguments.images)
    rows = [check(name, test) for name in names]
    print_table(rows)
    print(f"written to {write_csv(f'check_bundled-{arguments.dataset}', rows)}")
    wrong = [row["net"] for row in rows if not (agrees(row, "") and agrees(row, "_pgd20"))]
    if wrong:
        sys.exit(f"not what the card says: {', '.join(wrong)}")


def agrees(row: dict[str, Any], which: str) -> bool:
    """Whether the card's accuracy and the measured one are the same, but for the choice of images."""
    card, measured = row[f"card{which}"], row[f"measured{which}"]
    if card == "-":
        return True
    # as if neither sample shared an image with the other: too wide rather than too narrow
    variance = card * (100 - card) * (1 / row["test_images"] + 1 / row["card_images"])
    return bool(abs(measured - card) <= 3 * math.sqrt(variance))


def check(name: str, test: ImageSet) -> dict[str, Any]:
    """One net: what its card says and what is measured, in per cent."""
    progress(name)
    model, card = load_pretrained(name), read_card(name)
    net = Net.from_json(card["net"])
    transform = None
    if net.role == "defended":
        f_b = load_pretrained(f"{card['dataset']}/{net.f_b}")
        transform = LLPGDTransform(f_b, net.transform, generator=keyed_generator(0, 0))
    defended = DefendedModel(model, transform)
    draws = DRAWS if defended.randomized else 1
    measured = [accuracy(defended, test) for _ in range(draws)]
    row: dict[str, Any] = {
        "net": name,
        "test_images": len(test),
        "card_images": card["test_images"],
        "draws": draws,
        "card": 100 * card["test_accuracy"],
        "measured": sum(measured) / draws,
        "card_pgd20": "-",
        "measured_pgd20": "-",
    }
    if net.threat is not None:
        attacked = replace(test, x=pgd_images(model, test, THREATS[card["dataset"]], "cpu"))
        row |= {"card_pgd20": 100 * card["pgd20_accuracy"], "measured_pgd20": accuracy(defended, attacked)}
    return row


def accuracy(model: nn.Module, test: ImageSet) -> float:
    """Per cent."""
    with torch.no_grad():
        parts = zip(test.x.split(500), test.y.split(500), strict=True)
        return 100 * sum(int((model(x).argmax(1) == y).sum()) for x, y in parts) / len(test)


if __name__ == "__main__":
    main()
