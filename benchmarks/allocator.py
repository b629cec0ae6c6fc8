"""What is lost on a CPU to a malloc that gives large blocks back to the system after every layer, and gets them zeroed again?

glibc does, unless its environment says otherwise (`KEPT`: these settings keep the memory of a process until it ends). Every case
runs in a process of its own, with and without, in turn.

    python -m benchmarks.allocator
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
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

KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "THP_MEM_ALLOC_ENABLE": "1",
}
ROUNDS, SECONDS, BATCH = 3, 10.0, 128


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(rate(CASES[sys.argv[1]]())))
        return
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for kept, found in rates.items():
                found.append(in_a_process(case, kept))
        usual, tuned = median(rates[False]), median(rates[True])
        rows.append(
            {"case": case, "images_per_s": usual, "images_per_s_kept": tuned, "speed_over_usual": tuned / usual}
        )
        progress(f"{case}: {usual:.1f}, kept {tuned:.1f} images a second")
    print_table(rows)
    print(f"written to {write_csv('allocator', rows)}")


def in_a_process(case: str, kept: bool) -> float:
    """Images a second."""
    usual = {name: value for name, value in os.environ.items() if name not in KEPT}
    command = [sys.executable, "-m", "benchmarks.allocator", case]
    found = subprocess.run(
        command, env={**usual, **(KEPT if kept else {})}, check=True, capture_output=True, text=True
    ).stdout
    return float(json.loads(found.splitlines()[-1]))


def rate(call: Callable[[], Any]) -> float:
    """Images a second of a call that handles ``BATCH`` of them; the first call does not count."""
    call()
    begin, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        call()
        done += BATCH
    return done / spent


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
    """A step's forward and backward passes, of random weights."""
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
