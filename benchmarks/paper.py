"""Every table and figure of the paper, one after the other; those that train alike share their nets.

    python -m benchmarks.paper [--scale digits | cpu | paper]

Takes the options of each. What was killed goes on: nets and evaluations are kept in `runs/`.
"""

from __future__ import annotations

import runpy
import sys
import time
import traceback

from benchmarks.harness import FAILURES

# Those that say most for their time first: at the larger scales the last three take as long as all the others.
NAMES = (
    "table2_black_box",
    "table3_white_box",
    "figure5_steps",
    "figure6_eps",
    "figure3_differences",
    "figure8_reparameterisation",
    "table1_external_models",
    "figure9_tiny_imagenet",
    "table6_tiny_imagenet",
)


def main() -> None:
    """Run them by the options of this command; what fails, a single attack too, keeps none of the others, but the command ends
    with 1.
    """
    failed: list[str] = []
    FAILURES.clear()
    start = time.perf_counter()
    for name in NAMES:
        begin = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            runpy.run_module(f"benchmarks.{name}", run_name="__main__")
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"== all: {time.perf_counter() - start:.0f} s")
    if failed or FAILURES:
        sys.exit("\n".join(f"failed: {what}" for what in (*failed, *FAILURES)))


if __name__ == "__main__":
    main()
