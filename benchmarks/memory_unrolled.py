"""How much memory and time does the unrolled gradient take, with and without checkpoints?

Softsign and tanh through N steps of the Table 4 net, 64 images in one chunk. ``tensors``: the most that is alive at a time, from
the profiler's record of every allocation. Without it: seconds, and the peak of the resident set above what it was before the
gradient, which also has what malloc has not given back and the library's scratch memory; every case runs in a process of its own.

    python -m benchmarks.memory_unrolled [tensors]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from art_advtransform import LLPGDTransform, TransformConfig
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import random_start
from art_advtransform.unrolled import Softsign, Tanh, Unrolled
from benchmarks.harness import images, print_table, progress, table4_net, write_csv

STEPS = (1, 3, 5, 13, 40)
BATCH = 64
RULES: dict[str, type[Unrolled]] = {"softsign": Softsign, "tanh": Tanh}


def main() -> None:
    if len(sys.argv) > 2:
        print(json.dumps(one_case(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "checkpoint")))
        return
    measure, question = (
        (tensors, "memory_unrolled_tensors") if sys.argv[1:] == ["tensors"] else (both, "memory_unrolled")
    )
    rows = [row for rule in RULES for steps in STEPS for row in measure(rule, steps)]
    one_step = {(r["rule"], r["checkpoint"]): r["peak_MB"] for r in rows if r["steps"] == 1}
    for row in rows:
        row["peak_over_one_step"] = row["peak_MB"] / one_step[row["rule"], row["checkpoint"]]
    print_table(rows)
    print(f"written to {write_csv(question, rows)}")
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
    middle = {c: {key: sorted(run[key] for run in runs[c])[1] for key in runs[c][0]} for c in cases}
    return [
        {
            "rule": rule,
            "steps": steps,
            "checkpoint": c,
            **middle[c],
            "time_over_graph": middle[c]["seconds"] / middle[False]["seconds"],
        }
        for c in cases
    ]


def tensors(rule: str, steps: int) -> list[dict[str, Any]]:
    """The peak of live tensors, both ways."""
    x, start = _problem()
    rows = []
    for checkpoint in (True, False):
        peak = _tensor_bytes(lambda checkpoint=checkpoint: _gradient(rule, steps, checkpoint, x, start))  # type: ignore[misc]
        rows.append({"rule": rule, "steps": steps, "checkpoint": checkpoint, "peak_MB": peak / 2**20})
    progress(f"{rule}, {steps} steps done")
    return rows


def one_case(rule: str, steps: int, checkpoint: bool) -> dict[str, float]:
    """Peak of the resident set above the start, and seconds, of one gradient."""
    x, start = _problem()
    _gradient(rule, 1, checkpoint, x[:2], start[:2])  # what is loaded and built once doesn't count
    before = _resident_bytes()
    begin = time.perf_counter()
    _gradient(rule, steps, checkpoint, x, start)
    seconds = time.perf_counter() - begin
    return {"peak_MB": (_resident_bytes() - before) / 2**20, "seconds": seconds}


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


def _tensor_bytes(call: Callable[[], Any]) -> int:
    """Most bytes of tensors that are alive at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())


def _resident_bytes() -> int:
    """The high-water mark of the process."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main()
