"""L5: attacks of ART, on what an attacker sees of the defended model.

ART differentiates the model as it is, so that the backward rule and EOT are those of the view it is given.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack, Target
from art_advtransform.backward import GradientEstimator
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import global_seed


def white_box_transfer(max_iter: int = 40) -> Attack:
    """WT: PGD on f_a alone, fed to f_a(g(.)) (section 4 of the paper)."""

    def run(target: Target) -> Tensor:
        return projected_gradient_descent(target, target.bare(), max_iter)

    return Attack(f"white-box transfer: PGD-{max_iter} on f_a", run, "transfer", "art")


def black_box_transfer(max_iter: int = 40) -> Attack:
    """PGD on nets that the attacker trained on clean data; with several, on their mean logits."""

    def run(target: Target) -> Tensor:
        ensemble = target.bare(_MeanLogits(list(target.surrogates.values())))
        return projected_gradient_descent(target, ensemble, max_iter)

    name = f"black-box transfer: PGD-{max_iter} on a surrogate"
    return Attack(name, run, "transfer", "art", needs_surrogate=True)


def bpda_identity(max_iter: int = 40, eot_samples: int = 10) -> Attack:
    """BPDA-I with EOT (Athalye et al. 2018): PGD along the mean of grad f_a at g(x) over draws of D."""

    def run(target: Target) -> Tensor:
        return projected_gradient_descent(target, target.view("identity", eot_samples), max_iter)

    return Attack(f"BPDA-I: PGD-{max_iter}, EOT {eot_samples}", run, "white box", "art")


def bpda_unrolled(gradient: GradientEstimator, name: str, max_iter: int = 20, eot_samples: int = 2) -> Attack:
    """BPDA through all steps of LL-PGD with a soft sign or tanh (section 4.1 of the paper), with EOT."""

    def run(target: Target) -> Tensor:
        return projected_gradient_descent(target, target.view(gradient, eot_samples), max_iter)

    title = f"unrolled BPDA, {name}: PGD-{max_iter}, EOT {eot_samples}"
    return Attack(title, run, "white box", "art", needs_transform=True)


def projected_gradient_descent(target: Target, model: DefendedModel, max_iter: int) -> Tensor:
    """ART's ProjectedGradientDescent from one random start, steps of 2.5 eps / max_iter but at least eps / 10."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        nb_classes = target.bare()(target.x[:1]).shape[1]
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(target.x.shape[1:]),
        nb_classes=nb_classes,
        clip_values=target.threat.clip_values,
        device_type="cpu" if target.x.device.type == "cpu" else "gpu",
    )
    eps = target.threat.eps
    attack = ProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=max(2.5 * eps / max_iter, eps / 10),
        max_iter=max_iter,
        num_random_init=1,
        batch_size=len(target.x),
        verbose=False,
    )
    with global_seed(target.global_seed):
        attacked = attack.generate(target.x.cpu().numpy(), np.eye(nb_classes, dtype=np.float32)[target.y.cpu().numpy()])
    return torch.from_numpy(attacked).to(target.x)


class _MeanLogits(nn.Module):
    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).mean(0)
