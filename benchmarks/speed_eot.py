"""How fast is the gradient of the EOT loss, beside the toolkits' own ways to average over draws?

The same f_a, f_b and g for all, so that only the averaging differs: ours puts all draws of all images into one stream of
chunks; torchattacks' EOTPGD (one step) and Foolbox's wrapper call the model once a draw; ART's EoT class transforms one image
and one draw at a time. Every gradient is an average over fresh draws, so that the answers agree only up to their noise (the
cosine with ours is printed).

    python -m benchmarks.speed_eot
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import eagerpy as ep
import numpy as np
import torch
import torchattacks
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.expectation_over_transformation.pytorch import EoTPyTorch
from foolbox.models.wrappers import ExpectationOverTransformationWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform import DefendedModel, FoolboxDefendedModel, LLPGDTransform, ResNet18
from art_advtransform.randomness import global_seed
from benchmarks.harness import images, interleaved, print_table, table4_net, write_csv

SIZES = ((1, 64, 9), (64, 20, 3))  # images, draws, rounds


def main() -> None:
    with global_seed(1):
        f_a = ResNet18(width=16).eval()
    transform = LLPGDTransform(table4_net())
    rows = [row for n, draws, rounds in SIZES for row in measure(f_a, transform, n, draws, rounds)]
    print_table(rows)
    print(f"written to {write_csv('speed_eot', rows)}")


def measure(f_a: nn.Module, transform: LLPGDTransform, n: int, draws: int, rounds: int) -> list[dict[str, Any]]:
    """All ways to the gradient of ``n`` images and ``draws`` draws."""
    x, y = images(n), torch.arange(n) % 10
    methods = {
        "ours": lambda: ours(f_a, transform, x, y, draws),
        "torchattacks EOTPGD": lambda: eotpgd(f_a, transform, x, y, draws),
        "Foolbox EOT wrapper": lambda: foolbox(f_a, transform, x, y, draws),
        "ART EoT class": art(f_a, transform, x, y, draws),
    }
    gradients = {name: method() for name, method in methods.items()}
    timings = interleaved(methods, rounds)
    return [
        {
            "images": n,
            "draws": draws,
            "method": name,
            "median_s": t.median,
            "low_s": t.low,
            "high_s": t.high,
            "time_over_ours": t.median / timings["ours"].median,
            "cosine_to_ours": F.cosine_similarity(gradients[name].flatten(), gradients["ours"].flatten(), 0).item(),
        }
        for name, t in timings.items()
    ]


def ours(f_a: nn.Module, transform: LLPGDTransform, x: Tensor, y: Tensor, draws: int) -> Tensor:
    return gradient(DefendedModel(f_a, transform, eot_samples=draws), x, y)


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return result


def eotpgd(f_a: nn.Module, transform: LLPGDTransform, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """One step of EOTPGD; what it moves by is the sign of its gradient."""
    model = DefendedModel(f_a, transform)
    attack = torchattacks.EOTPGD(model, eps=0.1, alpha=1e-3, steps=1, eot_iter=draws, random_start=False)
    return torch.as_tensor(attack(x, y)).detach() - x


def foolbox(f_a: nn.Module, transform: LLPGDTransform, x: Tensor, y: Tensor, draws: int) -> Tensor:
    model = ExpectationOverTransformationWrapper(FoolboxDefendedModel(f_a, transform, device="cpu"), n_steps=draws)
    labels = ep.astensor(y)
    _, result = ep.value_and_grad(lambda z: ep.crossentropy(model(z), labels).sum(), ep.astensor(x))
    return torch.as_tensor(result.raw)


def art(f_a: nn.Module, transform: LLPGDTransform, x: Tensor, y: Tensor, draws: int) -> Callable[[], Tensor]:
    class EoT(EoTPyTorch):  # type: ignore[misc]
        def _transform(self, x: Tensor, y: Any, **kwargs: Any) -> tuple[Tensor, Any]:
            return transform(x), y

    classifier = PyTorchClassifier(
        f_a,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
        preprocessing_defences=[EoT(draws, (0.0, 1.0))],
    )
    one_hot = np.eye(10, dtype=np.float32)[y.numpy()]
    return lambda: torch.from_numpy(classifier.loss_gradient(x.numpy(), one_hot))


if __name__ == "__main__":
    main()
