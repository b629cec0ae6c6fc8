"""What does it cost in accuracy and robustness, and save in time, to train on a draw of g(x) for several epochs?

f_a on digits by its recipe (60 epochs, 1,200 images), with a fresh draw for every batch, and with banks that are drawn afresh
every K epochs, up to a single draw for all; three seeds each, test accuracy as the mean of five draws, and what momentum PGD
leaves of 100 test images.

    python -m benchmarks.redraw_every
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluation import evaluate
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.recipes import NETS, THREATS
from art_advtransform.train_nets import Options, train_nets
from art_advtransform.training import start_accelerator
from benchmarks.harness import print_table, progress, write_csv

EVERY = (0, 1, 3, 10, 60)
SEEDS = (0, 1, 2)
NAME = "f_a-defended"
NB_ATTACKED = 100


def main() -> None:
    rows: list[dict[str, Any]] = []
    for every in EVERY:
        found = [run(every, seed) for seed in SEEDS]
        accuracies, left, seconds = ([f[k] for f in found] for k in range(3))
        epochs = NETS["digits"][NAME].recipe.nb_epochs
        rows.append(
            {
                "redraw_every": every or "batch",
                "draws_of_an_image": epochs if every == 0 else -(-epochs // every),
                "test_accuracy": mean(accuracies),
                "deviation_over_seeds": stdev(accuracies),
                "momentum_pgd": mean(left),
                "momentum_pgd_deviation_over_seeds": stdev(left),
                "seconds": mean(seconds),
            }
        )
    print_table(rows)
    print(f"written to {write_csv('redraw_every', rows, start_accelerator().device.type)}")


def run(every: int, seed: int) -> tuple[float, float, float]:
    """Test accuracy, that under attack, and seconds of the training."""
    net = NETS["digits"][NAME]
    net = replace(net, recipe=replace(net.recipe, seed=seed), redraw_every=every)
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        train_nets("digits", train, test, folder, options=Options(nets={NAME: net}))
        seconds = time.perf_counter() - begin
        accuracy = float(read_card(Path(folder) / NAME)["test_accuracy"])
        left = attacked(load_pretrained(Path(folder) / NAME))
    progress(
        f"redraw every {every or 'batch'}, seed {seed}: {100 * accuracy:.1f} %, under attack {100 * left:.1f} %, {seconds:.1f} s"
    )
    return accuracy, left, seconds


def attacked(f_a: nn.Module) -> float:
    """Accuracy of ``f_a`` behind the bundled g under momentum PGD."""
    images = load_dataset("digits", "test").sample(NB_ATTACKED)
    model = DefendedModel(f_a, LLPGDTransform(load_pretrained("digits/f_b-adversarial"))).eval()
    found = evaluate(model, images.x, images.y, [momentum_pgd(100)], THREATS["digits"], nb_draws=20)
    mean_accuracy = found.attacks[0].mean
    if mean_accuracy is None:
        raise RuntimeError(found.attacks[0].problem)
    return mean_accuracy.value


if __name__ == "__main__":
    main()
