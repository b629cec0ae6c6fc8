"""L2: backward rules made of others: the exact Jacobian plus a share of a smoothed one, and f_b with a smooth ReLU."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import check_positive

_RELU_FUNCTIONS = (F.relu, torch.relu)


class Blended(GradientEstimator):
    """J = I + weight * (J_s - I), where J_s is another rule's: the exact part whole, of the smoothed one a share.

    What ``rule`` adds is cut, for each draw, to ``clip`` times the length of v: unrolled through thirteen steps it can be any
    number of times as long, and a single draw would decide the mean.

    Args:
        rule: gives J_s^T v.
        weight: lambda.
        clip: longest addition as a multiple of |v|.

    Raises:
        TypeError: if ``rule`` is no GradientEstimator.
        ValueError: if a number is not positive.
    """

    needs_trajectory: ClassVar[bool] = True

    def __init__(self, rule: GradientEstimator, weight: float = 0.3, clip: float = 1.0) -> None:
        _check_rule(rule)
        check_positive("weight", weight)
        check_positive("clip", clip)
        self.rule, self.weight, self.clip = rule, weight, clip

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        added, tiny = torch.nan_to_num(self.rule.pullback(draw, v) - v), torch.finfo(v.dtype).tiny
        # through thirteen steps it may be so large that its length overflows: the direction first, then how far
        peak = added.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
        unit = added / peak
        reach = torch.minimum(peak, self.clip * _length(v) / _length(unit).clamp_min(tiny))
        return v + self.weight * reach * unit


class SoftplusModel(GradientEstimator):
    """``rule`` on a copy of f_b whose ReLUs are softplus(beta u) / beta, along the true iterates.

    A net of ReLUs is piecewise linear, so that the second derivative that unrolling needs comes from the softmax alone.

    Args:
        rule: differentiates f_b twice.
        beta: the larger, the closer to ReLU.

    Raises:
        TypeError: if ``rule`` is no GradientEstimator.
        ValueError: if beta is not positive; in the backward pass, if f_b has no ReLU.
    """

    needs_trajectory: ClassVar[bool] = True

    def __init__(self, rule: GradientEstimator, beta: float = 10.0) -> None:
        _check_rule(rule)
        check_positive("beta", beta)
        self.rule, self.beta = rule, beta
        self._copies: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        if draw.model not in self._copies:
            self._copies[draw.model] = softplus_copy(draw.model, self.beta)
        # f_b may have been moved since
        return self.rule.pullback(replace(draw, model=self._copies[draw.model].to(draw.x.device, draw.x.dtype)), v)


def softplus_copy(model: nn.Module, beta: float) -> nn.Module:
    """A copy with softplus(beta u) / beta for every ReLU, module or traced function.

    Raises:
        ValueError: if there is none.

    Example:
        >>> softplus_copy(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), beta=5.0)[1]
        Softplus(beta=5.0, threshold=20.0)
    """
    smooth, found = copy.deepcopy(model), 0
    for name, module in list(smooth.named_modules()):
        if type(module) is nn.ReLU:
            parent, _, child = name.rpartition(".")
            setattr(smooth.get_submodule(parent), child, nn.Softplus(beta))
            found += 1
        elif isinstance(module, fx.GraphModule):
            found += _functions_replaced(module, beta)
    if not found:
        raise ValueError("expected f_b with ReLUs (as modules, or traced), found none to smooth")
    return smooth


def _functions_replaced(traced: fx.GraphModule, beta: float) -> int:
    nodes = [node for node in traced.graph.nodes if node.op == "call_function" and node.target in _RELU_FUNCTIONS]
    for node in nodes:
        node.target, node.args, node.kwargs = F.softplus, node.args[:1], {"beta": beta}
    if nodes:
        traced.recompile()
    return len(nodes)


def _length(v: Tensor) -> Tensor:
    length: Tensor = v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return length


def _check_rule(rule: object) -> None:
    if not isinstance(rule, GradientEstimator):
        raise TypeError(f"expected rule to be a GradientEstimator, got {type(rule).__name__}")
