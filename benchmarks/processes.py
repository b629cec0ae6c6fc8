"""How much faster is an evaluation in two processes than in one?

The preset quick on the bundled digits nets; every run is a process group of its own, in turn, and attacks the images anew.

    python -m benchmarks.processes
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from benchmarks.harness import print_table, write_csv

IMAGES, ROUNDS = 100, 3


def main() -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for k in range(ROUNDS):
        for processes in seconds:
            seconds[processes].append(run(processes))
        print(f"round {k + 1}/{ROUNDS}: {', '.join(f'{n}: {s[-1]:.1f} s' for n, s in seconds.items())}", flush=True)
    rows = [
        {
            "processes": n,
            "threads_each": threads(n),
            "median_s": median(found),
            "images_per_s": IMAGES / median(found),
            "speed_over_one": median(seconds[1]) / median(found),
        }
        for n, found in seconds.items()
    ]
    print_table(rows)
    print(f"written to {write_csv('processes', rows)}")


def threads(processes: int) -> int:
    """All cores are used in both cases."""
    return max((os.cpu_count() or 1) // processes, 1)


def run(processes: int) -> float:
    """Seconds of an evaluation, the start of Python included."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, "-m", "art_advtransform", "evaluate", "--images", str(IMAGES), "--model", "defended"]
    command += ["--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads(processes))}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run([*command, "--out", folder], env=environment, capture_output=True, check=True)
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
