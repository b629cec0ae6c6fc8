"""L2: the backward rules of g. One forward, several backwards: each rule maps v to (an estimate of) J^T v.

An attacker of f_a(g(x)) needs dL/dx = J^T v with v = dL/dg and J the Jacobian of g. The value g(x) is computed once, exactly,
by :mod:`art_advtransform.transform`; the rules here differ only in what they take J to be. To add one, subclass
:class:`GradientEstimator`, implement :meth:`~GradientEstimator.pullback`, and decorate the class with :func:`register`:

    >>> @register("half")
    ... class Half(GradientEstimator):
    ...     def pullback(self, draw, v):
    ...         return v / 2
    >>> "half" in GRADIENTS
    True
    >>> del GRADIENTS["half"]
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import check_count, check_positive
from art_advtransform.randomness import private_generator
from art_advtransform.unrolled import Autodiff, Softsign, Tanh

GRADIENTS: dict[str, type[GradientEstimator]] = {"autodiff": Autodiff, "softsign": Softsign, "tanh": Tanh}

_Rule = TypeVar("_Rule", bound=type[GradientEstimator])


def register(name: str) -> Callable[[_Rule], _Rule]:
    """Class decorator: make the rule available as ``gradient=name``."""

    def add(rule: _Rule) -> _Rule:
        GRADIENTS[name] = rule
        return rule

    return add


def resolve_gradient(gradient: str | GradientEstimator) -> GradientEstimator:
    """The rule for a name in ``GRADIENTS`` (with its default options), or the instance itself.

    Raises:
        ValueError: if the name is unknown, or names a rule that can't be made without options.
        TypeError: if ``gradient`` is neither.
    """
    if isinstance(gradient, GradientEstimator):
        return gradient
    if not isinstance(gradient, str):
        raise TypeError(f"expected gradient to be a name or a GradientEstimator, got {type(gradient).__name__}")
    if gradient not in GRADIENTS:
        raise ValueError(f"unknown gradient {gradient!r}; known: {', '.join(sorted(GRADIENTS))}")
    if gradient == "reparameterized":
        raise ValueError('gradient "reparameterized" needs a network: pass Reparameterized(network)')
    return GRADIENTS[gradient]()


@register("identity")
class Identity(GradientEstimator):
    """BPDA-I (Athalye et al. 2018): J = I. For a fixed D this is the exact Jacobian almost everywhere."""

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        return v


@register("reparameterized")
class Reparameterized(GradientEstimator):
    """J of a network h(x, D) trained to imitate g_D(x) (eq. 6; :func:`art_advtransform.training.fit_surrogate`).

    Args:
        network: nn.Module, (x, D), both (n, C, H, W), to (n, C, H, W). A copy in eval mode is used: batch statistics would
            tie an image's gradient to its batch.

    Raises:
        TypeError: if ``network`` is not an nn.Module.
        ValueError: in the backward pass, if it does not return images of the shape of ``x``.
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"expected network to be a torch.nn.Module, got {type(network).__name__}")
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        self.network.to(device=draw.x.device, dtype=draw.x.dtype)
        with torch.enable_grad():
            x = draw.x.detach().requires_grad_()
            imitated = self.network(x, draw.start)
            if imitated.shape != x.shape:
                raise ValueError(f"expected h(x, D) of shape {tuple(x.shape)}, got {tuple(imitated.shape)}")
            (gradient,) = torch.autograd.grad(imitated, x, v)
        return gradient


@register("finite_difference")
class FiniteDifference(GradientEstimator):
    """J by eq. 4: (J^T v)_j = <v, g_D(x + h e_j) - g_D(x)> / h, one transformation for every coordinate j.

    Args:
        h: step in pixel units.
        nb_samples: coordinates looked at for each image and backward pass, drawn without replacement and scaled so that
            the mean over draws is J^T v; ``None`` looks at all C*H*W of them.
        generator: where coordinates are drawn from; ``None`` seeds one from the operating system.

    Raises:
        ValueError: if ``h`` or ``nb_samples`` is not positive.
    """

    def __init__(
        self, h: float = 1 / 255, nb_samples: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        check_positive("h", h)
        if nb_samples is not None:
            check_count("nb_samples", nb_samples)
        self.h, self.nb_samples, self.generator = h, nb_samples, private_generator(generator)

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        # g(x) = x + d(x): the identity part is exact, only d is differenced
        gradient = v.clone(memory_format=torch.contiguous_format)
        nb_pixels = draw.x[0].numel()
        for i in range(len(draw.x)):
            coordinates = torch.arange(nb_pixels)
            if self.nb_samples is not None and self.nb_samples < nb_pixels:
                coordinates = torch.randperm(nb_pixels, generator=self.generator, device=self.generator.device).cpu()[
                    : self.nb_samples
                ]
            slopes = self._slopes(draw, i, coordinates, v[i])
            gradient[i].view(-1)[coordinates.to(v.device)] += slopes * (nb_pixels / len(coordinates))
        return gradient

    def _slopes(self, draw: Draw, i: int, coordinates: Tensor, v: Tensor) -> Tensor:
        """<v, d(x_i + h e_j) - d(x_i)> / h for every j in ``coordinates``."""
        x, start = draw.x[i : i + 1], draw.start[i : i + 1]
        base = draw.displacement(x, start)
        slopes = []
        for part in coordinates.split(draw.batch_size):
            moved = x.repeat(len(part), 1, 1, 1)
            moved.view(len(part), -1)[torch.arange(len(part)), part] += self.h
            change = draw.displacement(moved, start.expand_as(moved)) - base
            slopes.append((change * v).flatten(1).sum(1) / self.h)
        return torch.cat(slopes)


@register("evolution")
class Evolution(GradientEstimator):
    """J of the Gaussian-smoothed g by antithetic evolution strategies (Salimans et al. 2017).

    J^T v = v + mean over u ~ N(0, I) of <v, d(x + sigma u) - d(x - sigma u)> / (2 sigma) u, with d = g_D - identity and the same D
    on both sides. Its expectation is the gradient of E_u <v, g_D(x + sigma u)>, jumps included; splitting off the identity
    part, whose gradient is known, only lowers the variance.

    Args:
        sigma: standard deviation of the smoothing noise, in pixel units.
        nb_samples: antithetic pairs for each image and backward pass (two transformations each).
        generator: where u is drawn from; ``None`` seeds one from the operating system.

    Raises:
        ValueError: if ``sigma`` or ``nb_samples`` is not positive.
    """

    def __init__(self, sigma: float = 8 / 255, nb_samples: int = 20, generator: torch.Generator | None = None) -> None:
        check_positive("sigma", sigma)
        check_count("nb_samples", nb_samples)
        self.sigma, self.nb_samples, self.generator = sigma, nb_samples, private_generator(generator)

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        total = torch.zeros_like(draw.x)
        both = draw.start.repeat(2, 1, 1, 1)
        for _ in range(self.nb_samples):
            u = torch.randn(
                draw.x.shape, generator=self.generator, device=self.generator.device, dtype=draw.x.dtype
            ).to(draw.x.device)
            points = torch.cat([draw.x + self.sigma * u, draw.x - self.sigma * u])
            plus, minus = draw.displacement(points, both).chunk(2)
            slope = ((plus - minus) * v).flatten(1).sum(1) / (2 * self.sigma)
            total += slope.view(-1, 1, 1, 1) * u
        return v + total / self.nb_samples
