"""L6: an attack that shows its path, for the checks that look at more than where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.base import Target
from art_advtransform.attacks.climbing import Keeper, climb, margin
from art_advtransform.defended import DefendedModel


@dataclass(frozen=True)
class Path:
    """An attack from its start to its end.

    Attributes:
        iterates: T + 1 tensors (n, C, H, W), the start first.
        losses: the loss that the attack climbs, at the first T iterates, on its own draws, (T, n).
        x_adv: what it returns, (n, C, H, W).
        fooled: whether what the attack differentiates, on the attack's own draws, gets ``x_adv`` wrong, (n,).
    """

    iterates: list[Tensor]
    losses: Tensor
    x_adv: Tensor
    fooled: Tensor


# (target, max_iter, eot_samples) to a path.
PathAttack = Callable[[Target, int, int], Path]


def eot_pgd(target: Target, max_iter: int, eot_samples: int) -> Path:
    """PGD along BPDA-I gradients with EOT, steps of max(2.5 eps / max_iter, eps / 10), from where the target says."""
    view, threat = target.view(eot_samples=eot_samples), target.threat
    eps_step = max(2.5 * threat.eps / max_iter, threat.eps / 10)
    x_adv = target.start()
    iterates, losses = [x_adv], []
    for _ in range(max_iter):
        loss, gradient = loss_and_gradient(view, x_adv, target.y)
        x_adv = target.project(x_adv + eps_step * gradient.sign())
        iterates.append(x_adv)
        losses.append(loss)
    return Path(iterates, torch.stack(losses), x_adv, wrong_there(view, x_adv, target.y))


def margin_pgd(target: Target, max_iter: int, eot_samples: int) -> Path:
    """PGD on the mean margin over draws, with momentum and steps that fall, as the preset "strong" has it in several entries."""
    keeper, model = Keeper(target), target.view()
    draws = eot_samples if model.randomized else 1
    iterates, losses = [], []

    def direction(x_adv: Tensor) -> Tensor:
        leaf = x_adv.detach().requires_grad_()
        loss = (
            margin(model(leaf.repeat_interleave(draws, 0)), target.y.repeat_interleave(draws)).view(-1, draws).mean(1)
        )
        iterates.append(x_adv)
        losses.append(loss.detach())
        return gradient_or_zero(loss, leaf)

    last = climb(keeper, keeper.best, direction, max_iter, momenta=(0.0, 0.9))
    fooled = wrong_there(target.view(eot_samples=eot_samples), keeper.best, target.y)
    return Path([*iterates, last], torch.stack(losses), keeper.best, fooled)


# The attacks that can be asked about, by name.
PATHS: dict[str, PathAttack] = {"pgd": eot_pgd, "margin": margin_pgd}


def path_attack(name: str) -> PathAttack:
    """The one called ``name``.

    Raises:
        ValueError: if there is none.
    """
    if name not in PATHS:
        raise ValueError(f"unknown attack {name!r}; known: {', '.join(PATHS)}")
    return PATHS[name]


def loss_and_gradient(model: DefendedModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every image (n,), and its gradient, shape of ``x``."""
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(model(x), y, reduction="none")
    return loss.detach(), gradient_or_zero(loss, x)


def gradient_or_zero(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient of the sum, shape of ``x``; zero where none comes back, which is for check 4 to say."""
    if not loss.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(loss.sum(), x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def wrong_there(model: DefendedModel, x: Tensor, y: Tensor) -> Tensor:
    """Which images what is differentiated gets wrong, (n,): with gradients on, as the attack sees it."""
    logits: Tensor = model(x.detach().requires_grad_())
    return logits.detach().argmax(1) != y


def losses(model: DefendedModel, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every image (n,)."""
    with torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")
