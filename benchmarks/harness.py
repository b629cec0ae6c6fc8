"""What the benchmarks share: interleaved timing, the nets and images they run on, and where results go."""

from __future__ import annotations

import csv
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import SmallVGG
from art_advtransform.pretrained import load_network
from art_advtransform.randomness import global_seed, keyed_generator
from art_advtransform.store import slug

# elsewhere where it is only tried whether they run
RESULTS = Path(os.environ.get("ART_ADVTRANSFORM_RESULTS", Path(__file__).parent / "results"))

# What went wrong without ending a benchmark: a failed attack is a "-" in a table, and no reason to lose the others.
FAILURES: list[str] = []


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle of the rounds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Slowest round."""
        return max(self.seconds)


def interleaved(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time every candidate once a round, in an order that turns, after one round that doesn't count.

    Interleaving lets a slow spell of the machine hit all of them alike; a ratio of medians from one run is comparable, seconds
    from two runs are not.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for r in range(-1, rounds):
        order = names[r % len(names) :] + names[: r % len(names)]
        for name in order:
            spent = timed(candidates[name])
            if r >= 0:
                seconds[name].append(spent)
        progress(f"round {r + 1}/{rounds}: " + ", ".join(f"{n} {timed_last(seconds, n)}" for n in names))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call; CUDA is waited for."""
    gc.collect()
    _synchronise()
    begin = time.perf_counter()
    call()
    _synchronise()
    return time.perf_counter() - begin


def timed_last(seconds: dict[str, list[float]], name: str) -> str:
    return f"{seconds[name][-1]:.3f}" if seconds[name] else "-"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table4_net(spec: str | None = None, input_size: int = 32) -> nn.Module:
    """f_b: a bundled name, ``reference:<file>``, or the Table 4 net with seeded weights and settled batch statistics."""
    if spec is not None:
        return load_network(spec)
    with global_seed(0):
        net = SmallVGG(nb_classes=10 if input_size == 32 else 200, input_size=input_size)
        for _ in range(5):
            net(images(64, input_size))
    return net.eval()


def images(n: int, size: int = 32) -> Tensor:
    """Smooth random images (n, 3, size, size) in [0.2, 0.8]: with eps 0.2 no toolkit's clip to [0, 1] ever acts."""
    coarse = torch.rand(n, 3, size // 4, size // 4, generator=keyed_generator(0, 4, n))
    return 0.2 + 0.6 * nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


def write_csv(question: str, rows: Sequence[dict[str, Any]], device: str = "cpu") -> Path:
    """``results/<question>-<device>-torch<version>.csv``; ``device``: where it was measured, whatever else the machine has."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{question}-{device}-torch{torch.__version__.split('+')[0]}.csv"
    scratch = path.with_suffix(".partial")  # whole or not at all
    with scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    scratch.replace(path)
    return path


def named(question: str, f_b: str | None, dataset: str | None = None) -> str:
    """A name for results of the net that was asked for, where it isn't the seeded one, and of the images, where they are some."""
    kind, _, path = (f_b or "").partition(":")
    net = [] if f_b is None else [slug(Path(path).stem if kind == "reference" else f_b)]
    return "-".join([question, *net, *([] if dataset is None else [dataset])])


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Columns aligned, numbers short."""
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    head = list(rows[0])
    widths = [max(len(c[i]) for c in [head, *cells]) for i in range(len(head))]
    for line in [head, *cells]:
        print("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)))
