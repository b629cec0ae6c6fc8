"""L2: backward rules that go through all N steps, with sign and projection replaced by something smooth (BPDA)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import TransformConfig, check_count, check_positive
from art_advtransform.transform import first_iterate, loss_gradient, pgd_step, project

Projection = Literal["exact", "mask"]
Trajectory = Literal["exact", "smooth"]


class _Mask(torch.autograd.Function):
    """P_x with the derivative of eq. 5: 1 in z where the point is inside the ball, 0 outside, and none in the centre x."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, x: Tensor, config: TransformConfig) -> Tensor:
        projected = project(z, x, config)
        inside = (z - x).abs() <= config.eps
        if config.clip_values is not None:
            low, high = config.clip_values
            inside &= (z >= low) & (z <= high)
        ctx.save_for_backward(inside)
        return projected

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return v * inside, None, None


def project_with_mask(z: Tensor, x: Tensor, config: TransformConfig) -> Tensor:
    """P_x(z), differentiated by eq. 5."""
    projected: Tensor = _Mask.apply(z, x, config)
    return projected


class Unrolled(GradientEstimator):
    """J by the chain rule through the steps of eq. 3; subclasses say what replaces the sign.

    Args:
        temperature: the sign is replaced by s(u / temperature).
        normalize: divide u by its mean absolute value (for each image) first, so that ``temperature`` is a share of it
            rather than in units of the loss gradient.
        projection: derivative of P_x: ``"exact"`` differentiates x + clamp(z - x), also in its centre x; ``"mask"`` is
            the paper's eq. 5.
        steps: only the last so many steps are differentiated, the ones before count as the identity; ``None``: all N.
        trajectory: ``"exact"`` takes the derivatives along the true iterates (BPDA); ``"smooth"`` along those that the
            smooth sign itself would make, so that J is the exact Jacobian of the smoothed map.
        checkpoint: differentiate step by step from the stored iterates, so that memory does not grow with N;
            ``False`` keeps the graph of all steps (the same gradient).

    Raises:
        ValueError: if an option is out of range or unknown.
    """

    needs_trajectory: ClassVar[bool] = True

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        normalize: bool = False,
        projection: Projection = "exact",
        steps: int | None = None,
        trajectory: Trajectory = "exact",
        checkpoint: bool = True,
    ) -> None:
        check_positive("temperature", temperature)
        if steps is not None:
            check_count("steps", steps)
        if projection not in get_args(Projection):
            raise ValueError(f"unknown projection {projection!r}; known: {', '.join(get_args(Projection))}")
        if trajectory not in get_args(Trajectory):
            raise ValueError(f"unknown trajectory {trajectory!r}; known: {', '.join(get_args(Trajectory))}")
        self.temperature, self.normalize, self.steps = temperature, normalize, steps
        self.projection: Projection = projection
        self.trajectory: Trajectory = trajectory
        self.checkpoint = checkpoint

    @abstractmethod
    def smooth_sign(self, u: Tensor) -> Tensor:
        """What replaces sign(u); ``u`` is already divided by the temperature."""

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        iterates = self._iterates(draw)
        iterates = iterates if self.steps is None else iterates[-self.steps :]
        return self._adjoint(draw, iterates, v) if self.checkpoint else self._whole_graph(draw, iterates, v)

    def smoothed_map(self, draw: Draw, x: Tensor) -> Tensor:
        """The differentiable map that ``trajectory="smooth"`` is the exact Jacobian of, for draw.start and draw.y."""
        z = first_iterate(x, draw.start, draw.config)
        for _ in range(draw.config.max_iter):
            z = self._step(draw, z, x, create_graph=True)
        return z

    def _iterates(self, draw: Draw) -> list[Tensor]:
        if self.trajectory == "exact":
            return draw.trajectory
        z, iterates = first_iterate(draw.x, draw.start, draw.config), []
        for _ in range(draw.config.max_iter):
            iterates.append(z)
            z = self._step(draw, z, draw.x, create_graph=False).detach()
        return iterates

    def _adjoint(self, draw: Draw, iterates: list[Tensor], v: Tensor) -> Tensor:
        """One step at a time, last first: v <- J_z^T v, and what flows into the centre x is added up."""
        into_centre = torch.zeros_like(v)
        for iterate in reversed(iterates):
            with torch.enable_grad():
                z, x = iterate.detach().requires_grad_(), draw.x.detach().requires_grad_()
                after = self._step(draw, z, x, create_graph=True)
                v, through_centre = torch.autograd.grad(after, (z, x), v, materialize_grads=True)
            into_centre += through_centre
        return self._through_start(draw, v) + into_centre

    def _whole_graph(self, draw: Draw, iterates: list[Tensor], v: Tensor) -> Tensor:
        """The same, through one graph of all steps."""
        with torch.enable_grad():
            x = draw.x.detach().requires_grad_()
            before = first_iterate(x, draw.start, draw.config)
            # value: the iterate that the first differentiated step starts from; derivative: that of x_0
            z = iterates[0].detach() + (before - before.detach())
            for _ in iterates:
                z = self._step(draw, z, x, create_graph=True)
            (gradient,) = torch.autograd.grad(z, x, v)
        return gradient

    def _through_start(self, draw: Draw, v: Tensor) -> Tensor:
        """J^T v of x_0 = x + D, which is the identity but for the optional clip."""
        with torch.enable_grad():
            x = draw.x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(first_iterate(x, draw.start, draw.config), x, v)
        return gradient

    def _step(self, draw: Draw, z: Tensor, x: Tensor, *, create_graph: bool) -> Tensor:
        u = loss_gradient(draw.model, z, draw.y, create_graph=create_graph)
        projection = project if self.projection == "exact" else project_with_mask
        return pgd_step(z, x, u, draw.config, self._sign, projection)

    def _sign(self, u: Tensor) -> Tensor:
        scaled = u / self.temperature
        if self.normalize:
            # an image whose gradient vanishes everywhere stays where it is, rather than becoming NaN
            scaled = scaled / u.abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
        soft = self.smooth_sign(scaled)
        if self.trajectory == "smooth":
            return soft
        return torch.sign(u).detach() + (soft - soft.detach())  # the second term is exactly zero: only its slope counts


class Autodiff(Unrolled):
    """AD: exact automatic differentiation; sign has derivative zero, so that this EQUALS the identity (no clip).

    Kept as a check: with the exact projection and no ``clip_values``, every step hands its v on untouched.
    """

    def smooth_sign(self, u: Tensor) -> Tensor:
        return torch.sign(u)


class Softsign(Unrolled):
    """sign(u) -> u / (1 + |u|) (section 4.1 and appendix A.3 of the paper)."""

    def smooth_sign(self, u: Tensor) -> Tensor:
        return F.softsign(u)


class Tanh(Unrolled):
    """sign(u) -> tanh(u) (section 4.1 and appendix A.3 of the paper)."""

    def smooth_sign(self, u: Tensor) -> Tensor:
        return torch.tanh(u)
