"""What does it cost in accuracy, and save in time, to train on a draw of g(x) for several epochs?

f_a on digits by its recipe (60 epochs, 1,200 images), with a fresh draw for every batch, and with banks that are drawn afresh
every K epochs, up to a single draw for all; three seeds each, test accuracy as the mean of five draws.

    python -m benchmarks.redraw_every
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from art_advtransform.datasets import load_dataset
from art_advtransform.pretrained import read_card
from art_advtransform.recipes import NETS
from art_advtransform.train_nets import Options, train_nets
from art_advtransform.training import start_accelerator
from benchmarks.harness import print_table, progress, write_csv

EVERY = (0, 1, 3, 10, 60)
SEEDS = (0, 1, 2)
NAME = "f_a-defended"


def main() -> None:
    rows: list[dict[str, Any]] = []
    for every in EVERY:
        found = [run(every, seed) for seed in SEEDS]
        accuracies, seconds = [f[0] for f in found], [f[1] for f in found]
        epochs = NETS["digits"][NAME].recipe.nb_epochs
        rows.append(
            {
                "redraw_every": every or "batch",
                "draws_of_an_image": epochs if every == 0 else -(-epochs // every),
                "test_accuracy": mean(accuracies),
                "deviation_over_seeds": stdev(accuracies),
                "seconds": mean(seconds),
            }
        )
    print_table(rows)
    print(f"written to {write_csv('redraw_every', rows, start_accelerator().device.type)}")


def run(every: int, seed: int) -> tuple[float, float]:
    """Test accuracy, and seconds of the training."""
    net = NETS["digits"][NAME]
    net = replace(net, recipe=replace(net.recipe, seed=seed), redraw_every=every)
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        train_nets("digits", train, test, folder, options=Options(nets={NAME: net}))
        seconds = time.perf_counter() - begin
        accuracy = float(read_card(Path(folder) / NAME)["test_accuracy"])
    progress(f"redraw every {every or 'batch'}, seed {seed}: {100 * accuracy:.1f} %, {seconds:.1f} s")
    return accuracy, seconds


if __name__ == "__main__":
    main()
