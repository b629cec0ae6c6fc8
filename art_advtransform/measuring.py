"""L4: what the card of a trained net says of it: accuracies through g and under PGD, or how far an imitation is from g."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet
from art_advtransform.defended import DefendedModel
from art_advtransform.frozen import FrozenModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.randomness import keyed_generator
from art_advtransform.recipes import Net
from art_advtransform.transform import ll_pgd, random_start

# Draws of g(x) that the accuracy on a card is the mean of.
DRAWS = 5

# Images that are attacked at a time.
_CHUNK = 128


def found(
    net: Net,
    model: nn.Module,
    transform: LLPGDTransform | None,
    train: ImageSet,
    test: ImageSet,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """What the card says of the net: accuracies, or how far h is from g."""
    if transform is None or net.role != "imitation":
        return _accuracies(net, model, transform, test, accelerator, progress)
    seen = train.sample(min(len(test), len(train)))  # not the first: those of a folder are of a class or two
    errors = {
        "train_error": imitation_error(model, transform, seen),
        "test_error": imitation_error(model, transform, test),
    }
    return {"test_images": len(test), "draws": 1, **{name: round(error, 5) for name, error in errors.items()}}


def imitation_error(h: nn.Module, transform: LLPGDTransform, data: ImageSet, seed: int = 0) -> float:
    """Root mean squared distance of h(x, D) to g_D(x), in pixel units, over a draw for each image (Fig. 8)."""
    generator, total = keyed_generator(seed), 0.0
    device = transform.model.device
    with torch.no_grad():
        for x in data.x.split(_CHUNK):
            start = random_start(x, transform.config.eps, generator).to(device)
            distance = h(x.to(device), start) - transform(x.to(device), start)
            total += float(distance.double().square().sum())
    return float((total / data.x.numel()) ** 0.5)


def _accuracies(
    net: Net,
    model: nn.Module,
    transform: LLPGDTransform | None,
    test: ImageSet,
    accelerator: Accelerator,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Test accuracy (mean of several draws where there are any), and under PGD where the net was trained against it."""
    defended = DefendedModel(model, transform)
    draws = DRAWS if defended.randomized else 1
    shares = []
    for k in range(draws):
        progress(k, draws)
        shares.append(_share_right(defended, test, accelerator))
    progress(draws, draws)
    found = {"test_images": len(test), "test_accuracy": _mean(shares), "draws": draws}
    if net.threat is not None:
        attacked = replace(test, x=pgd_images(model, test, net.threat, accelerator.device))
        found["pgd20_accuracy"] = _mean([_share_right(defended, attacked, accelerator)])
    return found


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def _share_right(model: nn.Module, test: ImageSet, accelerator: Accelerator) -> float:
    """Share of the images that are classified right; every process takes its part of them."""
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    right = torch.zeros((), device=accelerator.device)
    with torch.no_grad():
        for x, y in zip(test.x[mine].split(512), test.y[mine].split(512), strict=True):
            right += (model(x.to(accelerator.device)).argmax(1).cpu() == y).sum().to(accelerator.device)
    return float(accelerator.reduce(right, "sum")) / len(test)


def pgd_images(
    model: nn.Module, test: ImageSet, threat: ThreatModel, device: torch.device | str, max_iter: int = 20, seed: int = 0
) -> Tensor:
    """The test images after PGD on ``model`` at the true label: ``max_iter`` steps of eps / 4 from a random start."""
    config = TransformConfig(threat.eps, threat.eps / 4, max_iter, "most_likely", clip_values=threat.clip_values)
    frozen, generator = FrozenModel(model), keyed_generator(seed)
    parts = [
        ll_pgd(frozen, x.to(device), y.to(device), random_start(x, threat.eps, generator).to(device), config).cpu()
        for x, y in zip(test.x.split(_CHUNK), test.y.split(_CHUNK), strict=True)
    ]
    return torch.cat(parts)
