"""L4: the defence as ART preprocessors."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import Tensor, nn

from art_advtransform.backward import GradientEstimator
from art_advtransform.config import Objective, TransformConfig, check_count
from art_advtransform.frozen import freeze
from art_advtransform.layer import LLPGDTransform, check_images
from art_advtransform.randomness import private_generator

Array = np.ndarray[Any, np.dtype[Any]]


class AdversarialTransform(PreprocessorPyTorch):  # type: ignore[misc]
    """g as an ART preprocessor: ``PyTorchClassifier(..., preprocessing_defences=[AdversarialTransform(f_b)])``.

    ART differentiates ``forward`` itself, so that the backward rule sits there. Defences come before ART's mean/std
    standardisation: f_b sees raw [0, 1] pixels. ART's ``fit`` transforms the training set once and then trains on that single
    frozen draw; :class:`~art_advtransform.adapters.art_trainer.AdversarialTransformTrainer` draws anew for every batch.

    Args:
        model: f_b, as for :class:`~art_advtransform.layer.LLPGDTransform`.
        eps, eps_step, max_iter, objective, random_start, clip_values: as for
            :class:`~art_advtransform.config.TransformConfig`.
        gradient: backward rule, a name in ``GRADIENTS`` or an instance.
        batch_size: images that f_b sees at a time (ART sends whole arrays); ``None`` chooses for the device.
        generator: where D is drawn from; ``None`` makes a private one.
        apply_fit, apply_predict: when ART applies the defence.
        device_type: "gpu" or "cpu", as ART's; the images ART hands over are brought here and back.

    Raises:
        TypeError, ValueError: for bad options, and from ``forward`` for bad images.
    """

    params = [
        "eps", "eps_step", "max_iter", "objective", "random_start", "clip_values", "gradient", "batch_size",
    ]  # fmt: skip

    def __init__(
        self,
        model: nn.Module,
        eps: float = 0.2,
        eps_step: float | None = None,
        max_iter: int = 13,
        objective: Objective = "least_likely",
        random_start: bool = True,
        clip_values: tuple[float, float] | None = None,
        gradient: str | GradientEstimator = "identity",
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        apply_fit: bool = True,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.eps, self.eps_step, self.max_iter = eps, eps_step, max_iter
        self.objective, self.random_start, self.clip_values = objective, random_start, clip_values
        self.gradient, self.batch_size = gradient, batch_size
        self.model = freeze(model, self.device)
        self.generator, self._is_private = private_generator(generator, self.device), generator is None
        self._last_draw: tuple[str, Tensor] | None = None
        self._check_params()

    def _check_params(self) -> None:
        """Check the parameters and rebuild g from them; ART calls this from ``set_params`` too."""
        config = TransformConfig(
            self.eps, self.eps_step, self.max_iter, self.objective, self.random_start, self.clip_values
        )
        self.transform = LLPGDTransform(
            self.model, config, gradient=self.gradient, batch_size=self.batch_size, generator=self.generator
        )

    def set_params(self, **kwargs: Any) -> None:
        """As ART's, but what is refused changes nothing."""
        before = {name: getattr(self, name) for name in self.params}
        try:
            super().set_params(**kwargs)
        except Exception:
            self.__dict__.update(before)
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Without a private generator, as :class:`~art_advtransform.layer.LLPGDTransform`, and what it drew."""
        drawn = {"generator": None, "_last_draw": None} if self._is_private else {}
        return {**self.__dict__, "transform": None, **drawn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy draws for itself, as that of :class:`~art_advtransform.layer.LLPGDTransform` does."""
        self.__dict__.update(state)
        self.generator = private_generator(state["generator"], self.model.device)
        self._check_params()

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """(g(x), y), float32 as all of ART's arrays: its decision-based attacks promote images to float64."""
        check_images(x)
        return self.transform(x.float()), y

    def __call__(self, x: Array, y: Any = None) -> tuple[Array, Any]:
        """The numpy route; the draw is remembered, so that :meth:`estimate_gradient` differentiates the same one."""
        self._last_draw = (_fingerprint(x), self.generator.get_state())
        result: tuple[Array, Any] = super().__call__(x, y)
        return result

    def estimate_gradient(self, x: Array, grad: Array) -> Array:
        """J^T grad at ``x``, for the draw that :meth:`__call__` last made of the same ``x``; fresh where there is none.

        ART comes here when a numpy preprocessor is in the chain.
        """
        if self._last_draw is None or self._last_draw[0] != _fingerprint(x):
            estimate: Array = super().estimate_gradient(x, grad)
            return estimate
        now = self.generator.get_state()
        try:
            estimate = self._replayed(x, grad, self._last_draw[1])
        finally:
            self.generator.set_state(now)
        return estimate

    def _replayed(self, x: Array, grad: Array, state: Tensor) -> Array:
        """J^T grad with the generator put back to ``state``; class gradients (n, K, C, H, W) class by class."""
        self.generator.set_state(state)
        if grad.ndim == x.ndim:
            estimate: Array = super().estimate_gradient(x, grad)
            return estimate
        return np.stack([self._replayed(x, grad[:, k], state) for k in range(grad.shape[1])], axis=1)


class EoTAdversarialTransform(AdversarialTransform):
    """g with expectation over transformation, ART's way: every image becomes ``nb_samples`` rows, each with its own draw.

    Rows are multiplied only where gradients are wanted, so that ``loss_gradient`` (of a loss that averages over its batch, as
    losses do by default; one that sums also sums over the draws) and ``class_gradient`` are means over the draws, while
    ``predict`` keeps the shape of its input (ART's own EoT classes multiply there too: ART issue 1267) and shows a single
    draw. With a numpy preprocessor in the chain ART can't multiply rows: the gradient is a single draw's. Attacks that compare
    rows with and without gradients (FeatureAdversariesPyTorch) can't take it, as they can't ART's own EoT.

    Args:
        model: f_b.
        nb_samples: draws for each image and gradient.
        kwargs: as :class:`AdversarialTransform`.

    Raises:
        TypeError, ValueError: for bad options.
    """

    params = [*AdversarialTransform.params, "nb_samples"]

    def __init__(self, model: nn.Module, nb_samples: int = 20, **kwargs: Any) -> None:
        self.nb_samples = nb_samples
        super().__init__(model, **kwargs)

    def _check_params(self) -> None:
        check_count("nb_samples", self.nb_samples)
        super()._check_params()

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """(g(x), y); where gradients are wanted, with ``nb_samples`` rows for every image, side by side."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return super().forward(x, y)
        rows = x.repeat_interleave(self.nb_samples, dim=0)
        if y is not None:
            return super().forward(rows, y.repeat_interleave(self.nb_samples, dim=0))
        # ART's loss_gradient averages over all rows; its class_gradient, which has no labels, sums over them
        rows.register_hook(lambda gradient: gradient / self.nb_samples)
        return super().forward(rows)

    def estimate_forward(self, x: Tensor, y: Any = None) -> Tensor:
        """The numpy route: one draw, one row."""
        return super().forward(x, y)[0]


def _fingerprint(x: Array) -> str:
    return f"{x.shape} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()}"
