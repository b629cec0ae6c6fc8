"""How many gradient signs does bfloat16 flip, and what becomes of g(x)?

At x_0 = x + D, sign(u) of the Table 4 net in float32 and under bfloat16 autocast is compared with float64's; then g_D(x) after
13 steps, in which flips add up.

    python -m benchmarks.precision [--f-b reference:vgg0_adv.pth --dataset cifar10]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import LLPGDTransform, TransformConfig
from art_advtransform.datasets import load_dataset
from art_advtransform.frozen import FrozenModel
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import loss_gradient, random_start, target_class
from benchmarks.harness import images, named, print_table, table4_net, write_csv

NB_IMAGES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--f-b", default=None, help="default: seeded weights, no download")
    parser.add_argument("--dataset", default=None, help="default: smooth random images")
    arguments = parser.parse_args()
    net = table4_net(arguments.f_b)
    x = images(NB_IMAGES) if arguments.dataset is None else load_dataset(arguments.dataset).sample(NB_IMAGES).x
    question = named("precision", arguments.f_b, arguments.dataset)
    rows = compare(net, x)
    print_table(rows)
    print(f"{NB_IMAGES} images; written to {write_csv(question, rows)}")


def compare(net: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """Shares that differ from float64, for each precision."""
    start = random_start(x.double(), TransformConfig().eps, keyed_generator(0, 7))
    exact = FrozenModel(net.double())
    y = target_class(exact, x.double())
    sign, g = signs(exact, x, start, y), transformed(exact, x, start)
    net.float()
    candidates = {
        "float32, plain": FrozenModel(net, optimise=False),
        "float32, optimised": FrozenModel(net),
        "bfloat16 autocast": FrozenModel(net, autocast=torch.bfloat16),
    }
    rows = []
    for name, model in candidates.items():
        equal = (transformed(model, x, start) - g).abs() <= 1e-5
        rows.append(
            {
                "precision": name,
                "signs_flipped": (signs(model, x, start, y) != sign).double().mean().item(),
                "labels_changed": (target_class(model, x) != y).double().mean().item(),
                "pixels_of_g_equal": equal.double().mean().item(),
                "images_of_g_equal": equal.flatten(1).all(1).double().mean().item(),
            }
        )
    return rows


def signs(model: FrozenModel, x: Tensor, start: Tensor, y: Tensor) -> Tensor:
    z = (x.double() + start).to(model.dtype)
    return torch.cat([loss_gradient(model, *part).sign() for part in zip(z.split(32), y.split(32), strict=True)])


def transformed(model: FrozenModel, x: Tensor, start: Tensor) -> Tensor:
    g: Tensor = LLPGDTransform(model)(x.to(model.dtype), start.to(model.dtype))
    return g


if __name__ == "__main__":
    main()
