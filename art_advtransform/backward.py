"""L2: what a backward rule is: it maps v = dL/dg to (an estimate of) J^T v, J the Jacobian of g; the value is never touched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from art_advtransform.arithmetic import full_precision
from art_advtransform.config import TransformConfig
from art_advtransform.transform import ll_pgd, target_class


@dataclass(frozen=True)
class Draw:
    """One evaluation g_D(x) of one chunk of images: all that a backward rule may look at.

    Attributes:
        model: f_b, frozen.
        x: images (n, C, H, W), detached.
        y: the label LL-PGD worked on, shape (n,).
        start: D, shape of ``x``.
        config: eps, a, N, objective.
        batch_size: how many images f_b should see at a time.
        trajectory: x_0 .. x_{N-1}, kept only for rules with ``needs_trajectory``.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    start: Tensor
    config: TransformConfig
    batch_size: int
    trajectory: list[Tensor] = field(default_factory=list)

    def displacement(self, z: Tensor, start: Tensor) -> Tensor:
        """g_D(z) - z at other points z (m, C, H, W) with starts (m, C, H, W); the label is found anew at every z."""
        parts = []
        for z_part, start_part in zip(z.split(self.batch_size), start.split(self.batch_size), strict=True):
            label = target_class(self.model, z_part, self.config.objective)
            parts.append(ll_pgd(self.model, z_part, label, start_part, self.config) - z_part)
        return torch.cat(parts)


class GradientEstimator(ABC):
    """A backward rule of g: what J^T v is taken to be."""

    needs_trajectory: ClassVar[bool] = False

    @abstractmethod
    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        """J^T v for the evaluation ``draw``.

        Args:
            draw: the evaluation that is differentiated.
            v: gradient at g(x), shape of ``draw.x``.

        Returns:
            Gradient at x, shape of ``draw.x``.
        """


class _ExactValue(torch.autograd.Function):
    """Value: the given g(x), untouched. Backward: the rule's pullback."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, rule: GradientEstimator, draw: Draw) -> Tensor:
        ctx.rule, ctx.draw = rule, draw
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        with full_precision(v.device):
            return ctx.rule.pullback(ctx.draw, v), None, None, None


def attach(rule: GradientEstimator, x: Tensor, value: Tensor, draw: Draw) -> Tensor:
    """``value`` = g(x), as a differentiable function of ``x`` whose backward is ``rule``."""
    result: Tensor = _ExactValue.apply(x, value, rule, draw)
    return result
