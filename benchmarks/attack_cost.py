"""Where does the time of an attack go? One evaluation of f_a(g(x)) for one draw, and the parts of it.

    python -m benchmarks.attack_cost [--images 50] [--rounds 5] [--data-root FOLDER]

The bundled CIFAR-10 nets: f_a alone, f_a(g(x)) forward, its gradient by BPDA-I, and unrolled through all steps. What follows for an
attack: the draws cost, not the gradients; whoever has won needs none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from art_advtransform import DefendedModel, LLPGDTransform, load_pretrained
from art_advtransform.attacks.climbing import cross_entropy, expected_gradient
from art_advtransform.datasets import load_dataset
from art_advtransform.unrolled import Tanh
from benchmarks.harness import interleaved, print_table, write_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-root", type=Path, default=None)
    arguments = parser.parse_args()
    data = load_dataset("cifar10", "test", arguments.data_root).sample(arguments.images)
    f_a, f_b = load_pretrained("cifar10/f_a-defended"), load_pretrained("cifar10/f_b-adversarial")
    defended, alone = DefendedModel(f_a, LLPGDTransform(f_b)).eval(), DefendedModel(f_a, None).eval()
    unrolled = defended.view(gradient=Tanh(1.0, normalize=True)).eval()

    def forward(model: DefendedModel) -> Callable[[], Any]:
        return torch.no_grad()(lambda: model(data.x))

    def gradient(model: DefendedModel) -> Callable[[], Any]:
        return lambda: expected_gradient(model, data.x, cross_entropy, data.y, 1)

    timings = interleaved(
        {
            "f_a, forward": forward(alone),
            "f_a, gradient": gradient(alone),
            "f_a(g), forward": forward(defended),
            "f_a(g), gradient by BPDA-I": gradient(defended),
            "f_a(g), unrolled gradient": gradient(unrolled),
        },
        arguments.rounds,
    )
    whole = timings["f_a(g), gradient by BPDA-I"].median
    rows = [
        {"what": name, "ms_per_image_and_draw": 1000 * t.median / len(data), "of_a_bpda_step": t.median / whole}
        for name, t in timings.items()
    ]
    print_table(rows)
    print(f"written to {write_csv('attack_cost', rows)}")


if __name__ == "__main__":
    main()
