"""Tiny nets, images and the reference f_a(g_D(x)) that the tests of every host share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform import LLPGDTransform, TransformConfig
from art_advtransform.transform import random_start

SHAPE = (3, 8, 8)
CLASSES = 4
CONFIG = TransformConfig(max_iter=4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand((n, *shape), generator=seeded(seed))


class SmallNet(nn.Module):
    """Convolution, batch norm, dropout. Not an nn.Sequential: ART calls the layers of those one by one, past any hook."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(SHAPE[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.body(x)))
        return logits


def small_net(seed: int, scale: float = 4.0) -> SmallNet:
    """Batch norm has statistics of its own, and the logits are centred, so that every class occurs."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallNet()
        sample = images(256, seed)
        net.train()(sample)
    with torch.no_grad():
        spread = net.eval()(sample)
        net.head.bias.sub_(spread.mean(0)).mul_(scale / spread.std())
        net.head.weight.mul_(scale / spread.std())
    return net


@dataclass(frozen=True)
class Problem:
    """f_a (eval), f_b (left in train mode, with dropout: the defence has to see to that itself), images and labels.

    The labels are f_a's own predictions, so that the undefended accuracy is 1.
    """

    f_a: SmallNet
    f_b: SmallNet
    x: Tensor
    y: Tensor


def problem(n: int = 6) -> Problem:
    f_a, f_b, x = small_net(1), small_net(2).train(), images(n, 3)
    with torch.no_grad():
        y = f_a(x).argmax(1)
    return Problem(f_a, f_b, x, y)


def starts(x: Tensor, seed: int, calls: int = 1, config: TransformConfig = CONFIG) -> list[Tensor]:
    """The D of every call that a defence with ``generator=seeded(seed)`` makes on ``x``."""
    generator = seeded(seed)
    return [random_start(x, config.eps, generator) for _ in range(calls)]


def transformed(f_b: nn.Module, x: Tensor, start: Tensor, config: TransformConfig = CONFIG) -> Tensor:
    """g_D(x), on a transform of its own."""
    g: Tensor = LLPGDTransform(f_b, config)(x.detach(), start)
    return g


def logits_at(f_a: nn.Module, z: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = f_a(z)
    return logits


def loss_gradient_at(f_a: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy of f_a at z: BPDA-I of f_a(g_D(.)) when z = g_D(x)."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(f_a(z), y, reduction="sum"), z)
    return gradient


def class_gradient_at(f_a: nn.Module, z: Tensor) -> Tensor:
    """Gradient of every logit of f_a at z, shape (n, K, C, H, W)."""
    z = z.detach().requires_grad_()
    logits = f_a(z)
    return torch.stack([torch.autograd.grad(logits[:, k].sum(), z, retain_graph=True)[0] for k in range(CLASSES)], 1)


def inside(attacked: Tensor, x: Tensor, eps: float) -> bool:
    """Whether ``attacked`` respects the budget and [0, 1], and is not simply ``x``."""
    moved = (attacked - x).abs().max()
    in_range = attacked.min() >= 0 and attacked.max() <= 1
    return bool(0 < moved <= eps + 1e-6) and bool(in_range)


class TooManyQueriesError(RuntimeError):
    """An attack asked more often than it should need to: it would not have ended."""


@contextmanager
def query_limit(model: nn.Module, limit: int) -> Iterator[list[Tensor]]:
    """A watchdog: ``model`` raises after ``limit`` calls. Yields the list of all inputs that it was called with."""
    seen: list[Tensor] = []

    def watch(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().clone())
        if len(seen) > limit:
            raise TooManyQueriesError(f"more than {limit} queries")

    handle = model.register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()
