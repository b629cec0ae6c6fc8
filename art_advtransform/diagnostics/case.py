"""L6: what a check is given, and what it returns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy.stats import t as student_t
from torch import Tensor, nn

from art_advtransform.attacks.base import Target
from art_advtransform.config import ThreatModel, check_count
from art_advtransform.counting import SCORING, SELECTION, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics.paths import Path, PathAttack, eot_pgd
from art_advtransform.randomness import derived_seed

Status = Literal["pass", "fail", "not applicable"]
CHECK = 5  # keeps these draws apart from those of an evaluation with the same seed


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        status: fail: the evaluation, or the defence, is not to be trusted in this respect.
        reason: one sentence, with the figure.
        figures: the numbers behind it; ``None`` for NaN and infinity, which JSON has not.
        curves: points (x, y) by name, for figures, with the same exception.
    """

    status: Status
    reason: str
    figures: dict[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[float, float | None]]] = field(default_factory=dict)


def verdict(ok: bool, reason: str, **figures: float) -> Verdict:
    """Pass or fail."""
    return Verdict("pass" if ok else "fail", reason, {name: finite(value) for name, value in figures.items()})


def finite(value: float) -> float | None:
    """``value``, or ``None`` where it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None


def not_applicable(reason: str) -> Verdict:
    """The check asks for something that isn't there."""
    return Verdict("not applicable", reason)


@dataclass
class Case:
    """A model, images, a budget, and the attack whose results are in question.

    Attributes:
        defended: f_a(g(.)), or a net alone.
        x: images (n, C, H, W); n is also the resolution of every accuracy.
        y: labels (n,).
        threat: budget.
        seed: of every draw.
        undefended: a net without a defence, for the positive controls.
        attack: the attack in question, (target, max_iter, eot_samples) to a :class:`~art_advtransform.diagnostics.paths.Path`.
        max_iter, eot_samples: of that attack.
        found: images that an evaluation's worst attacks made, shape of ``x``; checks that ask for no path, or for no attack of
            another model or budget, are of these instead of the attack's.
        found_by: whose ``found`` is, as sentences have it.
        nb_draws: draws of D that an accuracy is the mean of.
        nb_corners: random corners of the budget that are tried, over all images.
        nb_queries: of the Square attack, on an image.
    """

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int = 0
    undefended: nn.Module | None = None
    attack: PathAttack = eot_pgd
    max_iter: int = 40
    eot_samples: int = 10
    found: Tensor | None = None
    found_by: str = "the evaluation's worst case"
    nb_draws: int = 20
    nb_corners: int = 10_000
    nb_queries: int = 1000
    _path: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.defended, DefendedModel):
            raise TypeError(f"expected a DefendedModel, got {type(self.defended).__name__}")
        if len(self.x) == 0 or len(self.x) != len(self.y):
            raise ValueError(f"expected as many labels as images, and some, got {len(self.x)} and {len(self.y)}")
        if self.found is not None and self.found.shape != self.x.shape:
            raise ValueError(f"expected found images of shape {tuple(self.x.shape)}, got {tuple(self.found.shape)}")
        for name in ("max_iter", "eot_samples", "nb_draws", "nb_corners", "nb_queries"):
            check_count(name, getattr(self, name))

    def target(self, *key: int, model: DefendedModel | None = None, threat: ThreatModel | None = None) -> Target:
        """What an attack is given; ``key`` tells its draws from others'."""
        seed = derived_seed(self.seed, CHECK, *key)
        return Target(
            self.defended if model is None else model,
            self.x.clone(),
            self.y.clone(),
            self.threat if threat is None else threat,
            seed,
            others=self.x.clone(),
        )

    def attacked(self, *key: int, model: DefendedModel | None = None, **options: Any) -> Tensor:
        """Images that the attack in question makes, projected; ``options``: threat, max_iter, eot_samples, best (its start)."""
        target = self.target(*key, model=model, threat=options.get("threat"))
        target.best = options.get("best")
        max_iter, eot_samples = options.get("max_iter", self.max_iter), options.get("eot_samples", self.eot_samples)
        return target.project(self.attack(target, max_iter, eot_samples).x_adv)

    @property
    def path(self) -> Path:
        """The attack in question at its settings; it runs once for all checks."""
        if self._path is None:
            self._path = self.attack(self.target(0), self.max_iter, self.eot_samples)
        return self._path

    @property
    def x_adv(self) -> Tensor:
        """Where it ends, projected."""
        return self.target(0).project(self.path.x_adv)

    @property
    def worst(self) -> Tensor:
        """What was found for every image: by the evaluation where there is one, else by the attack in question; projected."""
        return self.x_adv if self.found is None else self.target(0).project(self.found)

    @property
    def made_by(self) -> str:
        """Whose ``worst`` is."""
        return "the attack in question" if self.found is None else self.found_by

    def rights(self, x: Tensor, model: DefendedModel | None = None, *, select: bool = False) -> Tensor:
        """Where each image is right (n, nb_draws), 0 or 1, in draws that choose (``select``) or draws that score.

        The draws of an image are the same whatever attacked it.
        """
        model = self.defended if model is None else model
        purpose = SELECTION if select else SCORING
        found = predictions(model, x, self.nb_draws, derived_seed(self.seed, CHECK), purpose)
        return (found == self.y[:, None]).double()

    def shares(self, x: Tensor, model: DefendedModel | None = None, *, select: bool = False) -> Tensor:
        """Share of right draws of every image (n,), as :meth:`rights` has them."""
        return self.rights(x, model, select=select).mean(1)

    def accuracy(self, x: Tensor, model: DefendedModel | None = None) -> float:
        """Mean accuracy in [0, 1] over images and draws."""
        return float(self.shares(x, model).mean())

    def noise(self, first: Tensor, second: Tensor | None = None) -> float:
        """Half of the 95 % interval, over draws, of an accuracy, or of the difference of two; 0 where none is drawn.

        Images and draws of the two are the same, so that only what differs counts.

        Args:
            first, second: of :meth:`rights`.
        """
        if not self.defended.randomized:
            return 0.0
        by_draw = (first if second is None else first - second).mean(0)
        return half_interval(by_draw.tolist(), unknown=math.sqrt(1 / len(self.x)))

    def uniform(self, size: float, *key: int) -> Tensor:
        """Images with U(-size, size) noise in the valid range."""
        generator = self.target(*key).generator(0)
        noise = (2 * torch.rand(self.x.shape, generator=generator) - 1) * size
        return (self.x + noise.to(self.x)).clamp(*self.threat.clip_values)


def half_interval(values: Sequence[float], unknown: float) -> float:
    """Half of the 95 % interval of the mean of ``values`` (Student's t); ``unknown`` where there is but one."""
    if len(values) < 2:
        return unknown
    quantile = float(student_t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


Check = Callable[[Case], Verdict]
# By number: what is asked, and the function.
CHECKS: dict[int, tuple[str, Check]] = {}


def check(number: int, name: str) -> Callable[[Check], Check]:
    """Decorator: the function is check ``number``."""

    def add(function: Check) -> Check:
        CHECKS[number] = (name, function)
        return function

    return add
