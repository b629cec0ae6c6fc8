"""What does each thing that is done for speed gain, and what would others gain that were left out?

128 images through the Table 4 net, all variants interleaved; the ratio is to what the package does, below 1 is faster.

    python -m benchmarks.variants [--compile]

``--compile`` adds torch.compile, which takes minutes to compile and wants a C++ compiler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import LLPGDTransform, folding
from art_advtransform.frozen import FrozenModel
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import loss_gradient, random_start, target_class
from benchmarks.harness import images, interleaved, print_table, table4_net, write_csv
from benchmarks.peers import CONFIG

N, ROUNDS = 128, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    x = images(N)
    start = random_start(x, CONFIG.eps, keyed_generator(0, 5, N))
    variants = {name: bind(make, x, start) for name, make in transforms(arguments.compile).items()}
    ours = LLPGDTransform(table4_net()).model
    variants["left out: steps in place, bounds kept"] = lambda: in_place(ours, x, start)
    variants["left out: one thread"] = one_thread(variants["as it is"])
    timings = interleaved(variants, ROUNDS)
    reference = timings["as it is"].median
    rows = [
        {
            "variant": name,
            "median_s": t.median,
            "low_s": t.low,
            "high_s": t.high,
            "time_over_as_it_is": t.median / reference,
        }
        for name, t in timings.items()
    ]
    print_table(rows)
    print(f"written to {write_csv('variants', rows)}")


def transforms(compiled: bool) -> dict[str, LLPGDTransform]:
    """The package's transform with one thing changed."""
    net = table4_net()
    found = {"as it is": LLPGDTransform(net)}
    for size in (8, 16, 64, 128):
        found[f"chunks of {size} instead of 32"] = LLPGDTransform(net, batch_size=size)
    found["without all of it: plain copy, chunks of 32"] = LLPGDTransform(FrozenModel(net, optimise=False))
    for what, function in (
        ("ReLU behind pooling", "_relu_behind_pool"),
        ("blocked first gradient", "_first_convolution"),
    ):
        with without(function):
            found[f"without {what}"] = LLPGDTransform(net)
    contiguous = LLPGDTransform(FrozenModel(net))
    contiguous.model.net.to(memory_format=torch.contiguous_format)
    found["weights not channels_last"] = contiguous
    if compiled:
        found["left out: torch.compile"] = LLPGDTransform(FrozenModel(net, compile=True))
    return found


@contextmanager
def without(function: str) -> Iterator[None]:
    """``folding`` with one of its rewritings switched off."""
    original = getattr(folding, function)
    setattr(folding, function, lambda traced: None)
    try:
        yield
    finally:
        setattr(folding, function, original)


def bind(transform: LLPGDTransform, x: Tensor, start: Tensor) -> Callable[[], Any]:
    return lambda: transform(x, start)


def in_place(model: nn.Module, x: Tensor, start: Tensor) -> Tensor:
    """The same steps with the bounds computed once, and no new tensor for a step."""
    done = []
    for part, d in zip(x.split(32), start.split(32), strict=True):
        part = part.contiguous(memory_format=torch.channels_last)
        y = target_class(model, part)
        low, high, z = part - CONFIG.eps, part + CONFIG.eps, part + d
        for _ in range(CONFIG.max_iter):
            u = loss_gradient(model, z, y)
            z.add_(u.sign_(), alpha=-CONFIG.step).clamp_(low, high)
        done.append(z)
    return torch.cat(done)


def one_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            call()
        finally:
            torch.set_num_threads(threads)

    return run


if __name__ == "__main__":
    main()
