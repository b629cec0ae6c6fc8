"""L1: THE algorithm. LL-PGD on f_b as pure functions; everything else in this package calls these.

    y_ll = argmin_k f_b(x)_k
    x_0  = x + D,  D ~ U(-eps, eps)
    x_{t+1} = P_x(x_t - a sign(grad_z L(f_b(z), y_ll) at z = x_t)),  t = 0 .. N-1        (eq. 3)
    P_x(z) = x + clamp(z - x, -eps, eps)                                                 (eq. 8)
    g_D(x) = x_N

Xiao & Zheng, "One Man's Trash is Another Man's Treasure", CVPR 2020, arXiv 1911.11219. To change the step rule, change
:func:`pgd_step`: the exact forward and every unrolled backward rule go through it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import Objective, TransformConfig


def target_class(model: nn.Module, x: Tensor, objective: Objective = "least_likely") -> Tensor:
    """The label that LL-PGD works on: argmin_k f_b(x)_k, or argmax for ``"most_likely"``.

    Args:
        model: f_b, images (n, C, H, W) to logits (n, K).
        x: images (n, C, H, W).
        objective: see :class:`TransformConfig`.

    Returns:
        Class indices, shape (n,), int64.
    """
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits.argmin(1) if objective == "least_likely" else logits.argmax(1)


def random_start(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """D ~ U(-eps, eps), shape and dtype of ``x``, from ``generator`` alone (never from global random state)."""
    uniform = torch.rand(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    return uniform.mul_(2 * eps).sub_(eps).to(x.device)


def loss_gradient(model: nn.Module, z: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """u = grad_z L(f_b(z), y), L the cross-entropy, one independent gradient for every image; shape of ``z``.

    The losses are summed, not averaged, so that an image's gradient does not depend on the size of its batch. Only the
    gradient in ``z`` is computed: no parameter's ``.grad`` is touched.
    """
    with torch.enable_grad():
        z = z if create_graph and z.requires_grad else z.detach().requires_grad_()
        loss = F.cross_entropy(model(z), y, reduction="sum")
        (u,) = torch.autograd.grad(loss, z, create_graph=create_graph)
    return u


def project(z: Tensor, x: Tensor, config: TransformConfig) -> Tensor:
    """P_x(z) = x + clamp(z - x, -eps, eps) (eq. 8), then the optional clip to ``config.clip_values``."""
    projected = x + torch.clamp(z - x, -config.eps, config.eps)
    return projected if config.clip_values is None else projected.clamp(*config.clip_values)


def pgd_step(
    z: Tensor,
    x: Tensor,
    u: Tensor,
    config: TransformConfig,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    projection: Callable[[Tensor, Tensor, TransformConfig], Tensor] = project,
) -> Tensor:
    """One step of eq. 3: P_x(z - a sign(u)); plus a for the ``"most_likely"`` objective, which ascends.

    ``sign`` and ``projection`` are parameters so that a backward rule can put a smooth relative in their place.
    """
    towards = -config.step if config.objective == "least_likely" else config.step
    return projection(z + towards * sign(u), x, config)


def first_iterate(x: Tensor, start: Tensor, config: TransformConfig) -> Tensor:
    """x_0 = x + D, clipped to ``config.clip_values`` where they are set."""
    z = x + start
    return z if config.clip_values is None else z.clamp(*config.clip_values)


def ll_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    config: TransformConfig,
    trajectory: list[Tensor] | None = None,
) -> Tensor:
    """g_D(x) for the start D and the label y: N steps of eq. 3 from x_0 = x + D.

    Args:
        model: f_b in eval mode, images (n, C, H, W) to logits (n, K).
        x: images (n, C, H, W), float32 or float64.
        y: label of every image, shape (n,), from :func:`target_class`.
        start: D, shape of ``x``, inside [-eps, eps].
        config: eps, a, N, objective.
        trajectory: a list that x_0 .. x_{N-1} are appended to, for the backward rules that unroll the steps.

    Returns:
        x_N, shape of ``x``, detached.

    Example:
        A linear f_b with two classes moves every pixel along the sign of the weight difference:

        >>> f_b = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> w = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
        >>> _ = f_b[1].weight.data.copy_(w)
        >>> x = torch.tensor([0.9, 0.1, 0.9, 0.1]).view(1, 1, 2, 2)
        >>> y = target_class(f_b, x)
        >>> y
        tensor([1])
        >>> (ll_pgd(f_b, x, y, torch.zeros_like(x), TransformConfig()) - x).flatten()
        tensor([-0.2000,  0.2000, -0.2000,  0.2000])
    """
    with torch.no_grad():
        z = first_iterate(x, start, config)
        for _ in range(config.max_iter):
            if trajectory is not None:
                trajectory.append(z)
            z = pgd_step(z, x, loss_gradient(model, z, y), config)
    return z
