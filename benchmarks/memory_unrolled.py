"""How much memory and time does the unrolled gradient take, with and without checkpoints?

Softsign and tanh through N steps of the Table 4 net, 64 images in one chunk. Every case runs in a process of its own, since a
process gives memory back late: its peak is the resident set's high-water mark above what it was before the gradient (CUDA: the
allocator's peak).

    python -m benchmarks.memory_unrolled
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from art_advtransform import LLPGDTransform, TransformConfig
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import random_start
from art_advtransform.unrolled import Softsign, Tanh, Unrolled
from benchmarks.harness import images, print_table, progress, table4_net, write_csv

STEPS = (1, 3, 5, 13, 40)
BATCH = 64
RULES: dict[str, type[Unrolled]] = {"softsign": Softsign, "tanh": Tanh}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one_case(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "checkpoint")))
        return
    rows = []
    for rule in RULES:
        for steps in STEPS:
            rows += both(rule, steps)
    one_step = {(r["rule"], r["checkpoint"]): r["peak_MB"] for r in rows if r["steps"] == 1}
    for row in rows:
        row["peak_over_one_step"] = row["peak_MB"] / one_step[row["rule"], row["checkpoint"]]
    print_table(rows)
    print(f"written to {write_csv('memory_unrolled', rows)}")
    for rule in RULES:
        print(
            f"{rule}: gradients with and without checkpoints differ by at most {difference(rule):.2g} of their largest entry"
        )


def both(rule: str, steps: int) -> list[dict[str, Any]]:
    """Both ways, three times in turn; medians."""
    cases = {True: "checkpoint", False: "graph"}
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(3):
        for checkpoint, word in cases.items():
            command = [sys.executable, "-m", "benchmarks.memory_unrolled", rule, str(steps), word]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[checkpoint].append(json.loads(found.splitlines()[-1]))
    progress(f"{rule}, {steps} steps done")
    seconds = {c: sorted(run["seconds"] for run in runs[c])[1] for c in cases}
    peaks = {c: sorted(run["peak_MB"] for run in runs[c])[1] for c in cases}
    return [
        {
            "rule": rule,
            "steps": steps,
            "checkpoint": c,
            "peak_MB": peaks[c],
            "seconds": seconds[c],
            "time_over_graph": seconds[c] / seconds[False],
        }
        for c in cases
    ]


def one_case(rule: str, steps: int, checkpoint: bool) -> dict[str, float]:
    """Peak above the start, and seconds, of one gradient."""
    x, start = _problem()
    _gradient(rule, 1, checkpoint, x[:2], start[:2])  # what is loaded and built once doesn't count
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    before = _peak_bytes()
    begin = time.perf_counter()
    _gradient(rule, steps, checkpoint, x, start)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_MB": (_peak_bytes() - before) / 2**20}


def difference(rule: str) -> float:
    """Largest difference of the two gradients at N = 13, float64, relative to the largest entry."""
    x, start = (t[:8].double() for t in _problem())
    a, b = (_gradient(rule, 13, checkpoint, x, start) for checkpoint in (True, False))
    return float((a - b).abs().max() / b.abs().max())


def _problem() -> tuple[Tensor, Tensor]:
    x = images(BATCH)
    return x, random_start(x, TransformConfig().eps, keyed_generator(0, 6))


def _gradient(rule: str, steps: int, checkpoint: bool, x: Tensor, start: Tensor) -> Tensor:
    net = table4_net().to(x.dtype)
    estimator = RULES[rule](normalize=True, checkpoint=checkpoint)
    transform = LLPGDTransform(net, TransformConfig(max_iter=steps), gradient=estimator, batch_size=BATCH)
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(transform(x, start).sum(), x)
    return gradient


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main()
