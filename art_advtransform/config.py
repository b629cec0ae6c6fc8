"""L0: what the transformation and the attacker are allowed to do, as frozen and validated dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

Objective = Literal["least_likely", "most_likely"]


def check_positive(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected {name} to be a number, got {type(value).__name__}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"expected {name} > 0, got {value}")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raise ``TypeError`` unless ``value`` is an int, ``ValueError`` unless it is at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"expected {name} to be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"expected {name} >= {minimum}, got {value}")


def as_clip_values(clip_values: Iterable[float]) -> tuple[float, float]:
    """A pair (low, high) of floats, of anything that has two (a record, which is JSON, has a list).

    Raises:
        TypeError, ValueError: unless there are two finite numbers with low < high.
    """
    if not isinstance(clip_values, Iterable):
        raise TypeError(f"expected clip_values as (low, high), got {clip_values}")
    low_high = tuple(clip_values)
    if len(low_high) != 2 or not all(math.isfinite(v) for v in low_high) or low_high[0] >= low_high[1]:
        raise ValueError(f"expected clip_values as (low, high) with low < high, got {clip_values}")
    return float(low_high[0]), float(low_high[1])


@dataclass(frozen=True)
class TransformConfig:
    """The hyper-parameters of g (Xiao & Zheng 2020, eq. 3 and 8); the defaults are the paper's.

    Attributes:
        eps: radius of the L-inf ball around x that g(x) stays in, in pixel units ([0, 1] images).
        eps_step: step length a; ``None`` means the paper's ``eps / 10``.
        max_iter: number of steps N.
        objective: ``"least_likely"`` descends the loss at argmin f_b(x) (the paper); ``"most_likely"`` ascends it at
            argmax f_b(x) (what the authors' released experiment ran).
        random_start: draw D ~ U(-eps, eps) for every pixel and call; ``False`` means D = 0.
        clip_values: optional (low, high) that every iterate is clipped to. The paper has none: g(x) may leave [0, 1].

    Raises:
        ValueError: if a number is out of range or the objective is unknown.
        TypeError: if a number is not one.

    Example:
        >>> TransformConfig().step
        0.02
        >>> TransformConfig(eps=-0.1)
        Traceback (most recent call last):
        ...
        ValueError: expected eps > 0, got -0.1
    """

    eps: float = 0.2
    eps_step: float | None = None
    max_iter: int = 13
    objective: Objective = "least_likely"
    random_start: bool = True
    clip_values: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        if self.eps_step is not None:
            check_positive("eps_step", self.eps_step)
            object.__setattr__(self, "eps_step", float(self.eps_step))
        check_count("max_iter", self.max_iter)
        # numpy's numbers are taken too, but records are JSON, which has none
        object.__setattr__(self, "eps", float(self.eps))
        object.__setattr__(self, "max_iter", int(self.max_iter))
        if self.objective not in get_args(Objective):
            raise ValueError(f"unknown objective {self.objective!r}; known: {', '.join(get_args(Objective))}")
        if self.clip_values is not None:
            object.__setattr__(self, "clip_values", as_clip_values(self.clip_values))

    @property
    def step(self) -> float:
        """The step length a that is used: ``eps_step``, or ``eps / 10``."""
        return self.eps / 10 if self.eps_step is None else self.eps_step


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker may change: every pixel by at most ``eps`` (L-inf), staying inside ``clip_values``.

    Attributes:
        eps: budget in pixel units; the paper's 0.031 is 8/255.
        clip_values: valid range of an image.

    Raises:
        ValueError: if ``eps`` is not positive or ``clip_values`` is not (low, high).

    Example:
        >>> ThreatModel(eps=0.3).eps
        0.3
    """

    eps: float = 8 / 255
    clip_values: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        object.__setattr__(self, "eps", float(self.eps))
        object.__setattr__(self, "clip_values", as_clip_values(self.clip_values))
