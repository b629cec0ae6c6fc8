"""L3: LLPGDTransform, g as an nn.Module: validation, chunks, random draws and the choice of a backward rule."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from art_advtransform.arithmetic import full_precision
from art_advtransform.backward import Draw, GradientEstimator, attach
from art_advtransform.config import TransformConfig, check_count
from art_advtransform.frozen import FrozenModel, check_precision, default_batch_size, freeze
from art_advtransform.gradients import resolve_gradient
from art_advtransform.randomness import private_generator
from art_advtransform.transform import ll_pgd, random_start, target_class

M = TypeVar("M", bound=nn.Module)

# Attacks may leave the range on their way, evolution strategies here and there by much, and g itself does. Images that lie a whole
# range outside in more than a few pixels have another scale ([0, 255]), or are standardised.
_BEYOND, _MOST_OUTSIDE = 1.0, 0.05


class LLPGDTransform(nn.Module):
    """g(x): the adversarial transformation of x on f_b (Xiao & Zheng 2020, eq. 3 and 8).

    The value is always exactly g_D(x); ``gradient`` chooses only how it is differentiated. f_b is copied and frozen: eval
    mode whatever ``train()`` is called, no parameter gradients, never a ``.grad``. Works under ``no_grad`` and
    ``inference_mode``; global random state is neither read nor moved.

    Args:
        model: f_b, any nn.Module from images (n, C, H, W) in [0, 1] to logits (n, K), in float32 or float64; its
            precision is the one LL-PGD computes in.
        config: eps, a, N, objective.
        gradient: a name in ``GRADIENTS`` or a :class:`~art_advtransform.backward.GradientEstimator`.
        batch_size: images that f_b sees at a time; ``None`` chooses for the device.
        generator: where D is drawn from; ``None`` makes a private one, seeded by the operating system, so that the
            defence's draws can't be guessed, nor are those of a copy the same. Pass one for a reproducible run.
        device: where f_b's copy is put; ``None`` leaves it where the model is.

    Shape:
        Images (n, C, H, W), any floating type and device, to g(x) of the same shape, type, device and memory format.

    Raises:
        TypeError, ValueError: for a bad option, a model in half precision; from ``forward``, for images that are not a
            finite floating (n, C, H, W) tensor that f_b takes, or have a twentieth of their pixels outside [-1, 2], for a start
            outside [-eps, eps], and for an f_b that draws (it must be a fixed map).

    Example:
        >>> f_b = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> g = LLPGDTransform(f_b)
        >>> x = torch.rand(5, 3, 2, 2)
        >>> g(x).shape
        torch.Size([5, 3, 2, 2])
        >>> bool(((g(x) - x).abs() <= 0.2 + 1e-6).all())
        True
        >>> D = torch.zeros_like(x)
        >>> torch.equal(g(x, start=D), g(x, start=D))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        config: TransformConfig | None = None,
        *,
        gradient: str | GradientEstimator = "identity",
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = TransformConfig() if config is None else config
        if not isinstance(self.config, TransformConfig):
            raise TypeError(f"expected config to be a TransformConfig, got {type(config).__name__}")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        self.gradient = resolve_gradient(gradient)
        self.batch_size = batch_size
        self.model: FrozenModel = freeze(model, device)
        self.generator = private_generator(generator, self.model.device)
        self._is_private = generator is None
        self._accepted: set[torch.Size] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Without a private generator: one of a GPU could not be read where there is none."""
        return {**self.__dict__, "generator": None if self._is_private else self.generator}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy draws for itself: replicas with one private generator would share their "random" D."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.generator = private_generator(state["generator"], self.model.device)

    def with_gradient(
        self,
        gradient: str | GradientEstimator,
        generator: torch.Generator | None = None,
        max_iter: int | None = None,
    ) -> LLPGDTransform:
        """The same g (f_b is shared, not copied) with another backward rule and draws of its own: an attacker's view.

        With ``max_iter`` it takes that many steps, as large as those of g.
        """
        seen = sharing_copy(self)
        seen.config = self.config if max_iter is None else replace(self.config, max_iter=max_iter)
        seen.gradient = resolve_gradient(gradient)
        seen.generator, seen._is_private = private_generator(generator, self.model.device), generator is None
        return seen

    def draw_start(self, x: Tensor) -> Tensor:
        """A fresh D for ``x``, of its shape: U(-eps, eps), or zero where ``config.random_start`` is off."""
        like = torch.empty(x.shape, dtype=self.model.dtype, device=self.model.device)
        return random_start(like, self.config.eps, self.generator) if self.config.random_start else like.zero_()

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        check_images(x)
        if start is not None:
            self._check_start(start, x)
        if len(x) == 0:
            return x.clone()
        self._check_range(x)
        differentiate = torch.is_grad_enabled() and x.requires_grad
        # autograd, which LL-PGD needs, is off inside inference_mode
        with torch.inference_mode(False), full_precision(self.model.device):
            x = x.clone() if x.is_inference() else x
            x = x if differentiate else x.detach()  # inference_mode(False) also switches gradients on
            start = None if start is None else (start.clone() if start.is_inference() else start).detach()
            self._check_accepted(x)
            return self._transform(x, start, differentiate=differentiate)

    def _transform(self, x: Tensor, start: Tensor | None, *, differentiate: bool) -> Tensor:
        z = x.to(device=self.model.device, dtype=self.model.dtype)
        start = self.draw_start(z) if start is None else start.to(z)
        size = self.batch_size or default_batch_size(z)
        chunk = partial(self._transform_chunk, size=size, differentiate=differentiate)
        g = torch.cat([chunk(*pair) for pair in zip(z.split(size), start.split(size), strict=True)])
        g = g.to(device=x.device, dtype=x.dtype)
        return g.contiguous(memory_format=_memory_format(x))

    def _transform_chunk(self, x: Tensor, start: Tensor, *, size: int, differentiate: bool) -> Tensor:
        fixed = x.detach().contiguous(memory_format=self.model.memory_format)
        y = target_class(self.model, fixed, self.config.objective)
        keep = differentiate and self.gradient.needs_trajectory
        draw = Draw(self.model, fixed, y, start, self.config, size, [])
        value = ll_pgd(self.model.for_steps, fixed, y, start, self.config, draw.trajectory if keep else None)
        return attach(self.gradient, x, value, draw) if differentiate else value

    def _check_range(self, x: Tensor) -> None:
        least, most = self.config.clip_values or (0.0, 1.0)  # a user's own scale is told by them
        beyond = _BEYOND * (most - least)
        outside = (x.detach() < least - beyond) | (x.detach() > most + beyond)
        if outside.float().mean() > _MOST_OUTSIDE:
            low, high = (float(bound) for bound in x.detach().aminmax())
            told = f"got pixels in [{low:.4g}, {high:.4g}]: there eps is another size"
            raise ValueError(f"expected images in [{least:g}, {most:g}], {told}")

    def _check_start(self, start: Tensor, x: Tensor) -> None:
        if not isinstance(start, Tensor) or not start.is_floating_point():
            raise TypeError("expected start to be a floating-point tensor")
        if start.shape != x.shape:
            raise ValueError(f"expected start of shape {tuple(x.shape)}, got {tuple(start.shape)}")
        # the negated test is also true for NaN; a rounding of eps itself is no error
        if start.numel() and not start.abs().max() <= self.config.eps * (1 + 1e-6):
            raise ValueError(f"expected start inside [-{self.config.eps}, {self.config.eps}]")

    def _check_accepted(self, x: Tensor) -> None:
        """Try f_b on one image of every new shape, so that a wrong one is reported before any work."""
        check_precision(self.model)  # .half() after construction
        if x.shape[1:] in self._accepted:
            return
        expected = f"f_b does not take images of shape {tuple(x.shape[1:])}"
        image = x[:1].to(device=self.model.device, dtype=self.model.dtype)
        try:
            with torch.no_grad():
                logits, again = self.model(image.clone()), self.model(given := image.clone())
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{expected}: {error}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"{expected}: it must return logits (n, K) with K >= 2")
        if logits.dtype != self.model.dtype:
            raise ValueError(f"expected logits of f_b in {self.model.dtype}, got {logits.dtype}")
        if not torch.equal(given, image):
            raise ValueError("expected f_b to leave its images as they are, got one that writes into them")
        if not torch.allclose(logits, again, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ValueError("expected f_b to be a fixed map, got one that draws: g_D(x) would not be a function of D")
        self._accepted.add(x.shape[1:])


def sharing_copy(module: M) -> M:
    """A copy of the same class, with the same hooks and submodules, none of which is copied; what is put into it stays there.

    Raises:
        TypeError: for a ``forward`` on the object itself, as accelerate's hooks put there: it would run the original.
    """
    if "forward" in module.__dict__:
        raise TypeError(
            f"expected a {type(module).__name__} whose forward is its class's, got one that was put on the object"
        )
    seen = type(module).__new__(type(module))
    held = {name: copy.copy(value) if isinstance(value, (dict, set)) else value for name, value in vars(module).items()}
    seen.__dict__.update(held)
    seen._compiled_call_impl = None  # what ``module.compile()`` made is bound to the original
    return seen


def check_images(x: Tensor) -> None:
    """Raise unless ``x`` is a finite floating-point tensor (n, C, H, W).

    Raises:
        TypeError: if it is not a floating-point tensor.
        ValueError: if it has another rank, or NaN or infinite pixels.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"expected images as a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point images in [0, 1], got {x.dtype}")
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"expected images of shape (n, C, H, W), got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("expected finite images, got NaN or infinite pixels")


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
