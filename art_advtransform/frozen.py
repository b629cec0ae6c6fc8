"""L1: the frozen copy of f_b that LL-PGD computes on, in one precision, whatever its surroundings do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform.folding import folded_copy

_HALF = (torch.float16, torch.bfloat16)


class FrozenModel(nn.Module):
    """f_b, fixed for ever: a copy in eval mode (whatever ``train()`` is called) without parameter gradients.

    Args:
        model: any nn.Module, images (n, C, H, W) to logits (n, K), in float32 or float64. It is copied, never changed.
        optimise: fold batch norm into convolutions, move ReLU behind max pooling (same value and gradient, a quarter of
            the elements) and use channels_last. Where that can't be done (a model that torch.fx can't trace, say), a
            plain copy serves; ``optimised`` tells which.
        autocast: compute f_b in ``torch.bfloat16`` or ``torch.float16`` (mixed precision, for GPUs), logits and gradients come
            back in f_b's own precision. Off by default: it flips signs of the gradient, so that g is another transformation
            (benchmarks/precision.py measures how many).
        compile: run LL-PGD's steps through ``torch.compile`` (for GPUs). The
            derivative rules that differentiate f_b twice keep the uncompiled net.

    Raises:
        TypeError: if ``model`` is not an nn.Module.
        ValueError: if it has parameters or buffers in half precision: sign(u) of a rounded gradient is another transformation; if
            ``autocast`` is not a half precision.

    Example:
        >>> frozen = FrozenModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10)))
        Traceback (most recent call last):
        ...
        ValueError: f_b has lazy parameters: run it once on an image before it is frozen
    """

    _precision: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        optimise: bool = True,
        autocast: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected f_b to be a torch.nn.Module, got {type(model).__name__}")
        check_precision(model)
        if autocast not in (None, *_HALF):
            raise ValueError(f"expected autocast to be one of {', '.join(map(str, _HALF))} or None, got {autocast}")
        self.autocast, self.compile_steps = autocast, compile
        with torch.inference_mode(False):  # made inside it, weights could never be differentiated through
            plain = _copied(model).eval()
            for parameter in plain.parameters():
                parameter.detach_()  # a copy of TorchScript has parameters that are no leaves
            fast = folded_copy(plain) if optimise else None
            # nn.DataParallel's replicas have buffers but no parameters to read precision and device from
            precision = _like_weights(plain)
        self.register_buffer("_precision", precision, persistent=False)
        self.optimised = fast is not None
        self.net = plain if fast is None else fast.to(precision.device)
        self.train(False)  # an nn.Module is born in train mode

    def forward(self, x: Tensor) -> Tensor:
        if self.autocast is None:
            logits: Tensor = self.net(x)
            return logits
        with torch.autocast(x.device.type, self.autocast):
            logits = self.net(x)
        return logits.to(self.dtype)

    @property
    def memory_format(self) -> torch.memory_format:
        """What f_b computes fastest in. Not an attribute: a memory format can't be pickled by torch.save."""
        return torch.channels_last if self.optimised else torch.contiguous_format

    @property
    def for_steps(self) -> nn.Module:
        """What LL-PGD's steps call: this module, or its compiled twin, which can be differentiated but once."""
        if not self.compile_steps:
            return self
        if "_twin" not in self.__dict__:
            self.__dict__["_twin"] = torch.compile(self)  # not a submodule: its weights would count twice
        twin: nn.Module = self.__dict__["_twin"]
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled: it can't be pickled, computes on this object's weights, and is made again on first use."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_twin", "_compiled_call_impl")}

    def train(self, mode: bool = True) -> FrozenModel:
        """Stay in eval mode: hosts (torchattacks) put whole models back into train mode."""
        super().train(False)
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> FrozenModel:
        """Nothing: ART resets a model's layers by it, and puts its dropout into train mode."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The precision that LL-PGD computes in."""
        return self._precision.dtype

    @property
    def device(self) -> torch.device:
        """Where LL-PGD computes."""
        return self._precision.device


def freeze(model: nn.Module, device: torch.device | str | None = None) -> FrozenModel:
    """A :class:`FrozenModel` of ``model`` on ``device``; one that is frozen and there already is shared, not copied."""
    with torch.inference_mode(False):  # see FrozenModel
        if not isinstance(model, FrozenModel):
            model = FrozenModel(model)
            return model if device is None else model.to(device)
        if device is None or torch.empty(0, device=device).device == model.device:
            return model
        return copy.deepcopy(model).to(device)  # its other users stay where they are


def default_batch_size(x: Tensor) -> int:
    """Images like ``x`` (n, C, H, W) that are transformed at a time.

    On a CPU what keeps the Table 4 net's activations near the cache, 32 images of 32x32, and as many pixels of other sizes:
    for 8x8 digits chunks of 512 were 3.9 times as fast as chunks of 32 (7353 against 1879 images a second). On a GPU 512 of
    32x32, and as many pixels of larger ones, lest they fill its memory.
    """
    most = 32 if x.device.type == "cpu" else 512
    return min(max(most * 32 * 32 // (x.shape[2] * x.shape[3]), 16), 512)


def _like_weights(model: nn.Module) -> Tensor:
    """A number of the precision and on the device of the weights, which may be buffers."""
    weights = (value for value in chain(model.parameters(), model.buffers()) if value.is_floating_point())
    return torch.zeros(1).to(next(weights, torch.empty(0)))


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; what hooks computed from parameters (``nn.utils.weight_norm``) refuses to be copied, so goes as constants."""
    computed = (
        v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf
    )
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def check_precision(model: nn.Module) -> None:
    """Raise ``ValueError`` if ``model`` has parameters or buffers in half precision, or lazy ones."""
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if isinstance(value, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
            raise ValueError("f_b has lazy parameters: run it once on an image before it is frozen")
        if value.dtype in _HALF:
            raise ValueError(f"expected f_b in float32 or float64, but {name} is {value.dtype}: call .float() first")
