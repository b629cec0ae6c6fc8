"""LL-PGD through the toolkits' own PGD, as a user would call it: targeted at given labels, from a given start.

None of them takes a start, so that each is handed one where it would draw its own; the arithmetic stays the toolkit's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import eagerpy as ep
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_pytorch as art_pgd
from art.estimators.classification import PyTorchClassifier
from foolbox.attacks.gradient_descent_base import LinfBaseGradientDescent
from foolbox.criteria import TargetedMisclassification
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import TransformConfig

Peer = Callable[[Tensor, Tensor, Tensor], Tensor]
CONFIG = TransformConfig()


def by_name(net: nn.Module, batch_size: int) -> dict[str, Peer]:
    """Every peer as (x, start, y) -> g_D(x), in batches of ``batch_size``."""
    peers = {
        "ART": art(net, batch_size),
        "Foolbox": foolbox(net),
        "torchattacks": torchattacks_pgd(net),
        "plain loop": plain_loop(net),
    }
    return {name: peer if name == "ART" else _batched(peer, batch_size) for name, peer in peers.items()}


def art(net: nn.Module, batch_size: int) -> Peer:
    """ART's ProjectedGradientDescent (PyTorch)."""
    classifier = PyTorchClassifier(
        net, loss=nn.CrossEntropyLoss(), input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescent(
        classifier,
        eps=CONFIG.eps,
        eps_step=CONFIG.step,
        max_iter=CONFIG.max_iter,
        targeted=True,
        num_random_init=1,
        batch_size=batch_size,
        verbose=False,
    )

    def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        parts = iter(start.split(batch_size))
        with mock.patch.object(art_pgd, "random_sphere", lambda n, m, *_: next(parts).numpy().reshape(n, m)):
            return torch.from_numpy(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))

    return run


def foolbox(net: nn.Module) -> Peer:
    """Foolbox's LinfPGD."""

    class FromStart(LinfBaseGradientDescent):
        start: Tensor

        def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
            return x0 + ep.astensor(self.start)

    attack = FromStart(
        rel_stepsize=CONFIG.step / CONFIG.eps, abs_stepsize=CONFIG.step, steps=CONFIG.max_iter, random_start=True
    )

    def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        attack.start = start
        model = PyTorchModel(net, bounds=(0, 1), device="cpu")
        result: Any = attack.run(model, x, TargetedMisclassification(y), epsilon=CONFIG.eps)
        return torch.as_tensor(result)

    return run


def torchattacks_pgd(net: nn.Module) -> Peer:
    """torchattacks' PGD."""
    attack = torchattacks.PGD(net, eps=CONFIG.eps, alpha=CONFIG.step, steps=CONFIG.max_iter)
    attack.set_mode_targeted_by_label(quiet=True)

    def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        with mock.patch.object(Tensor, "uniform_", lambda self, *_: self.copy_(start)):
            return torch.as_tensor(attack(x, y))

    return run


def plain_loop(net: nn.Module) -> Peer:
    """The loop as the authors wrote it: ``backward()`` through f_b as it is."""

    def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        z = x + start
        for _ in range(CONFIG.max_iter):
            z = z.detach().requires_grad_()
            F.cross_entropy(net(z), y).backward()
            assert z.grad is not None
            z = x + torch.clamp(z.detach() - CONFIG.step * z.grad.sign() - x, -CONFIG.eps, CONFIG.eps)
        return z

    return run


def _batched(peer: Peer, batch_size: int) -> Peer:
    def run(x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        parts = zip(x.split(batch_size), start.split(batch_size), y.split(batch_size), strict=True)
        return torch.cat([peer(*part) for part in parts])

    return run
