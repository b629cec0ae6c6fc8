"""What is lost on a CPU to a malloc that gives large blocks back to the system, and gets them filled with zeros again?

glibc does, unless :func:`~art_advtransform.allocator.keep_freed_memory` asks it not to; torch can ask for huge pages beside that.
Every case runs in a process of its own, each way in turn.

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
from art_advtransform.allocator import keep_freed_memory
from art_advtransform.losses import Loss, adversarial_loss, plain_loss
from art_advtransform.networks import NETWORKS
from art_advtransform.randomness import keyed_generator
from art_advtransform.recipes import THREATS, preset_nets
from benchmarks.harness import images, print_table, progress, write_csv

WAYS = ("usual", "kept", "kept_huge")
_HUGE = "THP_MEM_ALLOC_ENABLE"
ROUNDS, SECONDS, BATCH = 3, 8.0, 128


def main() -> None:
    if len(sys.argv) > 1:
        way, case = sys.argv[1:]
        if way != "usual" and not keep_freed_memory():
            raise RuntimeError("expected glibc's malloc, and no settings for it in the environment")
        print(json.dumps(rate(CASES[case]())))
        return
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, found in rates.items():
                found.append(in_a_process(way, case))
        middle = {way: median(found) for way, found in rates.items()}
        over = {f"{way}_over_usual": middle[way] / middle["usual"] for way in WAYS[1:]}
        rows.append({"case": case, **{f"{way}_images_per_s": middle[way] for way in WAYS}, **over})
        progress(f"{case}: " + ", ".join(f"{way} {found:.1f}" for way, found in middle.items()) + " images a second")
    print_table(rows)
    print(f"written to {write_csv('allocator', rows)}")


def in_a_process(way: str, case: str) -> float:
    """Images a second."""
    command = [sys.executable, "-m", "benchmarks.allocator", way, case]
    environment = {**os.environ, _HUGE: "1" if way == "kept_huge" else "0"}
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
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
