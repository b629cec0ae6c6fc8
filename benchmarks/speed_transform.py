"""How fast is g(x), beside the toolkits' own PGD and beside the floor?

The same f_b (Table 4 net, 3x32x32), images, start, steps and labels through all of them; every output is compared with
ours. The floor is 27 forward passes of the folded, channels_last f_b (13 forward, 13 input gradients, 1 for the label) at the
chunk size that suits forward passes best: no implementation of 13 steps does less arithmetic.

    python -m benchmarks.speed_transform [--sizes 1 32 128 1024] [--f-b reference:vgg0_adv.pth]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import LLPGDTransform
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import random_start, target_class
from benchmarks.harness import images, interleaved, named, print_table, progress, table4_net, timed, write_csv
from benchmarks.peers import CONFIG, Peer, by_name

ROUNDS = {1: 31, 32: 11, 128: 7, 1024: 5}
PASSES = 2 * CONFIG.max_iter + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 32, 128, 1024])
    parser.add_argument("--f-b", default=None, help="default: seeded weights, no download")
    arguments = parser.parse_args()
    net = table4_net(arguments.f_b)
    batch_size = {name: best_batch_size(net, name) for name in by_name(net, 32)}
    rows = [row for n in arguments.sizes for row in measure(net, n, batch_size)]
    print_table(rows)
    print(f"written to {write_csv(named('speed_transform', arguments.f_b), rows)}")


def measure(net: nn.Module, n: int, batch_size: dict[str, int]) -> list[dict[str, Any]]:
    """All methods on ``n`` images: images a second, ratio to ours, agreement with ours."""
    transform = LLPGDTransform(net)
    x, y, start = problem(transform, n)
    chunk = best_forward_chunk(transform)
    methods: dict[str, Callable[[], Tensor]] = {"ours": lambda: transform(x, start)}
    for name, size in batch_size.items():
        methods[name] = bind(by_name(net, size)[name], x, start, y)
    outputs = {name: method() for name, method in methods.items()}
    # the label is part of the transformation: the peers are given it for nothing
    timings = interleaved({**methods, "floor": lambda: floor(transform, x, chunk)}, ROUNDS.get(n, 5))
    ours = timings["ours"].median
    rows = []
    for name, t in timings.items():
        equal = equal_share(outputs[name], outputs["ours"]) if name in outputs else (float("nan"),) * 2
        rows.append(
            {
                "images": n,
                "method": name,
                "batch": {"ours": "auto", "floor": chunk}.get(name) or batch_size[name],
                "median_s": t.median,
                "low_s": t.low,
                "high_s": t.high,
                "images_per_s": n / t.median,
                "time_over_ours": t.median / ours,
                "equal_pixels": equal[0],
                "equal_images": equal[1],
            }
        )
    return rows


def problem(transform: LLPGDTransform, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, least likely labels and a start."""
    x = images(n)
    return x, target_class(transform.model, x), random_start(x, CONFIG.eps, keyed_generator(0, 5, n))


def bind(peer: Peer, x: Tensor, start: Tensor, y: Tensor) -> Callable[[], Tensor]:
    return lambda: peer(x, start, y)


def floor(transform: LLPGDTransform, x: Tensor, chunk: int) -> None:
    """27 forward passes."""
    with torch.no_grad():
        parts = [p.contiguous(memory_format=transform.model.memory_format) for p in x.split(chunk)]
        for _ in range(PASSES):
            for part in parts:
                transform.model(part)


def best_forward_chunk(transform: LLPGDTransform) -> int:
    """The chunk at which 128 forward passes are fastest."""
    x = images(128)
    seconds = {c: min(timed(lambda c=c: floor(transform, x, c)) for _ in range(3)) for c in (8, 16, 32, 64, 128)}  # type: ignore[misc]
    return min(seconds, key=lambda c: seconds[c])


def best_batch_size(net: nn.Module, name: str) -> int:
    """The batch size at which a peer does 128 images fastest: it is compared at its best."""
    x, y, start = problem(LLPGDTransform(net), 128)
    seconds = {}
    for size in (16, 32, 64, 128):
        run = bind(by_name(net, size)[name], x, start, y)
        run()
        seconds[size] = min(timed(run) for _ in range(2))
    best = min(seconds, key=lambda s: seconds[s])
    progress(f"{name}: best batch size {best} of {seconds}")
    return best


def equal_share(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Share of pixels equal within 1e-5, and of images in which all of them are."""
    equal = (a - b).abs() <= 1e-5
    return equal.float().mean().item(), equal.flatten(1).all(1).float().mean().item()


if __name__ == "__main__":
    main()
