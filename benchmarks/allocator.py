"""What is lost on a CPU to a malloc that gives large blocks back to the system, and gets them filled with zeros again?

glibc does that with the activations of every layer. Ways to have it otherwise, all by the environment: glibc told to keep what is
freed, or jemalloc, with the settings that PyTorch's guide to CPUs names. Every case runs in a process of its own, each way in turn.

    python -m benchmarks.allocator
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from art_advtransform import DefendedModel, LLPGDTransform, load_pretrained
from art_advtransform.losses import Loss, adversarial_loss, plain_loss
from art_advtransform.networks import NETWORKS
from art_advtransform.randomness import keyed_generator
from art_advtransform.recipes import THREATS, preset_nets
from benchmarks.harness import images, print_table, progress, write_csv

WAYS = {
    "usual": {},
    "kept": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"},
    "jemalloc": {
        "LD_PRELOAD": find_library("jemalloc") or "",
        "MALLOC_CONF": "oversize_threshold:1,background_thread:true,metadata_thp:auto,"
        "dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000",
    },
}
ROUNDS, SECONDS, BATCH = 3, 8.0, 128


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measured(CASES[sys.argv[1]]())))
        return
    if not find_library("jemalloc"):
        sys.exit("expected jemalloc, e.g. from apt-get install libjemalloc2")
    rows: list[dict[str, Any]] = []
    for case in CASES:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, found in runs.items():
                found.append(in_a_process(way, case))
        rates = {way: median(run["images_per_s"] for run in found) for way, found in runs.items()}
        peaks = {f"{way}_peak_MB": median(run["peak_MB"] for run in found) for way, found in runs.items()}
        over = {f"{way}_over_usual": rates[way] / rates["usual"] for way in WAYS if way != "usual"}
        rows.append({"case": case, **{f"{way}_images_per_s": rate for way, rate in rates.items()}, **over, **peaks})
        progress(f"{case}: " + ", ".join(f"{way} {rate:.1f}" for way, rate in rates.items()) + " images a second")
    print_table(rows)
    print(f"written to {write_csv('allocator', rows)}")


def in_a_process(way: str, case: str) -> dict[str, float]:
    """What :func:`measured` finds of a case."""
    command = [sys.executable, "-m", "benchmarks.allocator", case]
    settings = {name for more in WAYS.values() for name in more}
    usual = {name: value for name, value in os.environ.items() if name not in settings}
    found = subprocess.run(command, env={**usual, **WAYS[way]}, check=True, capture_output=True, text=True).stdout
    run: dict[str, float] = json.loads(found.splitlines()[-1])
    return run


def measured(call: Callable[[], Any]) -> dict[str, float]:
    """Images a second of a call that handles ``BATCH`` of them (its first does not count), and the peak of the resident set."""
    wanted = os.environ.get("LD_PRELOAD", "")
    if wanted and wanted not in Path("/proc/self/maps").read_text():  # a preload that fails is but a warning
        raise RuntimeError(f"expected {wanted} to be loaded")
    call()
    begin, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        call()
        done += BATCH
    return {"images_per_s": done / spent, "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def defended(gradient: bool) -> Callable[[], Any]:
    """f_a(g(x)) on CIFAR-10, or its BPDA-I gradient."""
    g = LLPGDTransform(load_pretrained("cifar10/f_b-adversarial"))
    model, x = DefendedModel(load_pretrained("cifar10/f_a-defended"), g).eval(), images(BATCH)
    y = torch.arange(BATCH) % 10

    def call() -> Any:
        with torch.set_grad_enabled(gradient):
            attacked = x.clone().requires_grad_(gradient)
            logits = model(attacked)
        return torch.autograd.grad(cross_entropy(logits, y), attacked) if gradient else logits

    return call


def training(dataset: str, name: str, size: int) -> Callable[[], Any]:
    """A step's forward and backward passes (without the optimizer's), of random weights."""
    net = preset_nets(dataset)[name]
    model = NETWORKS[net.architecture](**net.arguments).train().to(memory_format=torch.channels_last)  # as `fit` has it
    loss: Loss = plain_loss if net.threat is None else adversarial_loss(THREATS[dataset], net.attack_steps)
    x, y = images(BATCH, size).contiguous(memory_format=torch.channels_last), torch.arange(BATCH) % 10

    def call() -> None:
        model.zero_grad()
        loss(model, x, y, keyed_generator(0)).backward()

    return call


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "f_a(g(x)), 3x32x32": lambda: defended(gradient=False),
    "its BPDA-I gradient": lambda: defended(gradient=True),
    "training f_a, 3x32x32": lambda: training("cifar10", "undefended", 32),
    "training f_b by FGSM, 3x32x32": lambda: training("cifar10", "f_b-adversarial", 32),
    "training f_a, 3x64x64": lambda: training("tiny_imagenet", "undefended", 64),
    "training f_b by FGSM, 3x64x64": lambda: training("tiny_imagenet", "f_b-adversarial", 64),
}

if __name__ == "__main__":
    main()
