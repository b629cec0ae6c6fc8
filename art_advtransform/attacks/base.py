"""L5: what an attack is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from art_advtransform.backward import GradientEstimator
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel, Queries
from art_advtransform.randomness import derived_seed, keyed_generator

Kind = Literal["white box", "transfer", "black box"]


@dataclass
class Target:
    """What an attack may look at: the defended model, images with labels, the budget, and nets of the attacker's own.

    Attributes:
        defended: f_a(g(.)), not randomised where there is no defence.
        x: clean images (n, C, H, W) in the threat model's range.
        y: true labels (n,).
        threat: the budget.
        seed: of everything that the attack draws.
        surrogates: nets that a black-box attacker trained for himself, by name.
        others: images (m, C, H, W) of other classes that decision-based attacks may start from.
        queries: passes through the defended model, counted image by image and draw by draw.
    """

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict)
    others: Tensor | None = None
    queries: Queries = field(default_factory=Queries)

    def view(self, gradient: str | GradientEstimator = "identity", eot_samples: int = 1) -> DefendedModel:
        """The defended model with a backward rule, EOT and draws of the attacker's choice; its passes are counted."""
        view = self.defended.view(gradient=gradient, eot_samples=eot_samples, generator=keyed_generator(self.seed))
        view.queries = self.queries
        return view.eval()

    def bare(self, model: nn.Module | None = None) -> DefendedModel:
        """f_a alone, or another net alone: what a transfer attack differentiates."""
        return DefendedModel(self.defended.classifier if model is None else model, None).eval()

    def generator(self, *key: int) -> torch.Generator:
        """A generator of the attack's own."""
        return keyed_generator(self.seed, *key)

    @property
    def global_seed(self) -> int:
        """For toolkits that draw from global state."""
        return derived_seed(self.seed)

    def project(self, attacked: Tensor) -> Tensor:
        """The nearest image inside the budget and the valid range; NaN becomes the clean pixel."""
        attacked = torch.where(torch.isnan(attacked), self.x, attacked.to(self.x))
        inside = torch.clamp(attacked, self.x - self.threat.eps, self.x + self.threat.eps)
        return inside.clamp(*self.threat.clip_values)


@dataclass(frozen=True)
class Attack:
    """A named attack with its settings.

    Attributes:
        name: what tables call it; settings belong in it, since two attacks of a name can't be told apart.
        run: attacked images for a target, shape of ``target.x``; evaluation projects them on the budget.
        kind: what the attacker knows.
        toolkit: the Python package it comes from; a missing one is reported, not an error.
        needs_transform: whether it is meaningless for an undefended model.
        needs_surrogate: whether it needs a net of the attacker's own.
    """

    name: str
    run: Callable[[Target], Tensor]
    kind: Kind
    toolkit: str = "art_advtransform"
    needs_transform: bool = False
    needs_surrogate: bool = False

    def missing(self, target: Target) -> str | None:
        """Why it can't run on ``target``, with the remedy; ``None`` if it can."""
        if find_spec(self.toolkit) is None:
            return f'needs {self.toolkit}: pip install "art-advtransform[{self.toolkit}]"'
        if self.needs_transform and target.defended.transform is None:
            return "nothing to unroll: no transform"
        if self.needs_surrogate and not target.surrogates:
            return "needs a surrogate net"
        return None
