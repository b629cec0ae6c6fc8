"""L1: the arithmetic of g, whatever its surroundings set: no half precision, no TF32, convolutions that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch.backends import cuda, cudnn, mkldnn

# torch's switches of reduced precision, by operator, since 2.9; before, the older ones below are all there is
_SWITCHES: list[Any] = [
    getattr(backend, operator)
    for backend, operators in ((cudnn, ("conv", "rnn")), (cuda, ("matmul",)), (mkldnn, ("conv", "rnn", "matmul")))
    for operator in operators
    if hasattr(getattr(backend, operator, None), "fp32_precision")
]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """A context in which float32 is float32, and the same numbers give the same gradient, as far as torch's settings reach.

    sign(u) turns a rounding of u around where u is small, and LL-PGD takes 13 of them: in half precision, or in the TF32 that
    GPUs use for convolutions unless told otherwise, g is another transformation (benchmarks/precision.py); a convolution that
    cuDNN sums in another order every time gives another g_D for the same D.
    """
    kind = device.type
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_strict())
        yield


class _Strict:
    """The settings are the process's: of several threads (nn.DataParallel) the first in sets them, the last out restores."""

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0
        self.restore: Callable[[], None] = lambda: None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.restore = _made_strict()
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.restore()


_strict = _Strict()


def _made_strict() -> Callable[[], None]:
    """Set all; what undoes it."""
    repeatable = cudnn.deterministic, cudnn.benchmark
    precisions = [switch.fp32_precision for switch in _SWITCHES]
    older = _older_switches()
    cudnn.deterministic, cudnn.benchmark = True, False
    if older is not None:
        _set_older(False, "highest")
    for switch in _SWITCHES:
        if switch.fp32_precision not in ("none", "ieee"):
            switch.fp32_precision = "ieee"

    def restore() -> None:
        cudnn.deterministic, cudnn.benchmark = repeatable
        if older is not None:
            _set_older(*older)
        for switch, precision in zip(_SWITCHES, precisions, strict=True):
            if switch.fp32_precision != precision:  # the older ones set some of them
                switch.fp32_precision = precision

    return restore


def _older_switches() -> tuple[bool, str] | None:
    """TF32 of convolutions, and the precision of products of matrices; ``None`` where torch refuses to tell.

    It does where a program has used the newer ones, and then goes by these alone.
    """
    try:
        return cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set_older(allow_tf32: bool, precision: str) -> None:
    if cudnn.allow_tf32 != allow_tf32:
        cudnn.allow_tf32 = allow_tf32
    if torch.get_float32_matmul_precision() != precision:
        torch.set_float32_matmul_precision(precision)
