"""L5: what an attack is, how it sees the model, and what it is given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from art_advtransform.attacks.identity import identity
from art_advtransform.backward import GradientEstimator
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel, Queries
from art_advtransform.gradients import Reparameterized, resolve_gradient
from art_advtransform.randomness import derived_seed, keyed_generator
from art_advtransform.transform import random_start

Kind = Literal["white box", "transfer", "black box"]
# An image that is right in more draws than this is still attacked: what is left of the others is less than a point in all.
SURVIVES = 0.01
# Streams that no attack numbers for itself, as it may its images: the toolkits' global state, and a view's frozen draw.
_GLOBAL, _FROZEN = 2**31, 2**31 + 1
Seen = Literal["defended", "f_a", "f_b", "surrogates", "twin"]


@dataclass(frozen=True)
class View:
    """How an attack sees the model: what it differentiates or queries, by which backward rule, over which draws.

    Attributes:
        model: ``"defended"``: f_a(g(.)); ``"f_a"`` or ``"f_b"`` alone; ``"surrogates"``: the mean log-probabilities of the
            attacker's nets; ``"twin"``: f_a'(g(.)), f_a' an independent copy.
        gradient: backward rule of g, a name in ``GRADIENTS`` or an instance.
        eot_samples: draws of D that one call averages.
        frozen: one draw of D, the same for every image and call, instead of fresh ones.
        max_iter: steps N of g as the attacker runs it; ``None``: those of the defence.
        uses_g: whether the attack looks at g by itself, too.
        surrogate: name of the one net of ``"surrogates"`` that is seen; ``None``: all.
        without: names of nets of ``"surrogates"`` that are not.
    """

    model: Seen = "defended"
    gradient: str | GradientEstimator = "identity"
    eot_samples: int = 1
    frozen: bool = False
    max_iter: int | None = None
    uses_g: bool = False
    surrogate: str | None = None
    without: tuple[str, ...] = ()

    def chosen(self, surrogates: Mapping[str, nn.Module]) -> list[str]:
        """Names of those of ``surrogates`` that are seen."""
        return [name for name in surrogates if name not in self.without and self.surrogate in (None, name)]

    @property
    def needs_transform(self) -> bool:
        """Whether there is nothing to see of an undefended model."""
        return self.model in ("f_b", "twin") or self.gradient != "identity" or self.max_iter is not None or self.uses_g


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
        imitation: h(x, D), trained to imitate g_D(x) (eq. 6).
        twin: f_a', trained like f_a from another seed.
        best: for every image the strongest result of the attacks before (n, C, H, W), what a continuing attack starts from.
        alive: share of the draws that choose in which ``best`` is classified right, (n,).
        queries: passes through the defended model, counted image by image and draw by draw.
    """

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    surrogates: Mapping[str, nn.Module] = field(default_factory=dict)
    others: Tensor | None = None
    imitation: nn.Module | None = None
    twin: nn.Module | None = None
    best: Tensor | None = None
    alive: Tensor | None = None
    queries: Queries = field(default_factory=Queries)

    @contextmanager
    def seen(self, view: View) -> Iterator[DefendedModel]:
        """The model as ``view`` describes it."""
        if view.model == "f_a":
            yield self._own(self.bare())
        elif view.model == "f_b":
            assert self.defended.transform is not None  # Attack.missing says so before
            yield self.bare(self.defended.transform.model)
        elif view.model == "surrogates":
            yield self.bare(_MeanLogProbabilities([self.surrogates[name] for name in view.chosen(self.surrogates)]))
        else:
            target = self if view.model == "defended" else self.of_twin()
            model = target.view(view.gradient, view.eot_samples, view.max_iter)
            with (
                model.frozen(derived_seed(self.seed, _FROZEN)) if view.frozen and not model.is_frozen else nullcontext()
            ):
                yield model

    def view(
        self, gradient: str | GradientEstimator = "identity", eot_samples: int = 1, max_iter: int | None = None
    ) -> DefendedModel:
        """The defended model with a backward rule, EOT, steps and draws of the attacker's choice; its passes are counted."""
        if gradient == "reparameterized" and self.imitation is not None:
            gradient = Reparameterized(self.imitation)
        gradient = resolve_gradient(gradient)
        if hasattr(gradient, "generator"):  # rules that sample do it by the attack's seed
            gradient = copy.copy(gradient)
            gradient.generator = self.generator(1)
        known = self.defended.is_frozen  # other draws of D have no say; those of an f_a that draws for itself do
        view = self.defended.view(
            gradient=gradient,
            eot_samples=1 if known and not self.defended.draws_itself else eot_samples,
            max_iter=max_iter,
            generator=keyed_generator(self.seed),
        )
        view.one_start = known
        view.queries = self.queries
        return view.eval()

    def of_twin(self) -> Target:
        """The same images in front of f_a'(g(.)), whose passes are not those of the model."""
        assert self.twin is not None  # Attack.missing says so before
        return replace(self, defended=self.defended.view(classifier=self.twin), queries=Queries())

    def bare(self, model: nn.Module | None = None) -> DefendedModel:
        """f_a alone, or another net alone: what a transfer attack differentiates."""
        return DefendedModel(self.defended.classifier if model is None else model, None).eval()

    def _own(self, model: DefendedModel) -> DefendedModel:
        """Where there is no defence, f_a is the model in question: its passes count."""
        if self.defended.transform is None:
            model.queries = self.queries
        return model

    def start(self) -> Tensor:
        """Where an attack begins: at the strongest result so far, else at random in the budget."""
        if self.best is not None:
            return self.best.clone()
        return self.project(self.x + random_start(self.x.cpu(), self.threat.eps, self.generator(2)).to(self.x))

    def subset(self, rows: Tensor) -> Target:
        """The images of these numbers; passes are counted into the same place."""
        best, alive = (None if t is None else t[rows] for t in (self.best, self.alive))
        return replace(self, x=self.x[rows], y=self.y[rows], best=best, alive=alive)

    def generator(self, *key: int) -> torch.Generator:
        """A generator of the attack's own."""
        return keyed_generator(self.seed, *key)

    @property
    def global_seed(self) -> int:
        """For toolkits that draw from global state: apart from the draws of D, lest a random start be the D it meets first."""
        return derived_seed(self.seed, _GLOBAL)

    @property
    def nb_classes(self) -> int:
        """K."""
        with torch.no_grad():
            return len(self.bare()(self.x[:1])[0])

    def project(self, attacked: Tensor) -> Tensor:
        """The nearest image inside the budget and the valid range; NaN becomes the clean pixel."""
        attacked = torch.where(torch.isnan(attacked), self.x, attacked.to(self.x))
        inside = torch.clamp(attacked, self.x - self.threat.eps, self.x + self.threat.eps)
        return inside.clamp(*self.threat.clip_values)


@dataclass(frozen=True)
class Attack:
    """An entry of the catalogue.

    Attributes:
        name: what tables and files call it; settings belong in it, since readers can't tell two attacks of a name apart.
        generate: attacked images for a target and the model as ``view`` describes it, shape of ``target.x``; the evaluation
            projects them on the budget.
        kind: what the attacker knows.
        view: how it sees the model.
        toolkit: the Python package it comes from; a missing one is reported, not an error.
        method: its class there.
        cost: evaluations of f_a(g(.)) for a single draw that it spends on an image, at most.
        continues: whether it starts from the strongest result so far, and only of the images that are still right in more than
            ``SURVIVES`` of the draws; where it finds nothing stronger, its line tells that result.
        stage: of an evaluation in stages, for figures.
        published: accuracy of the defence under it as the paper gives it (CIFAR-10, ResNet18 of width 64), in [0, 1].
    """

    name: str
    generate: Callable[[Target, DefendedModel], Tensor]
    kind: Kind = "white box"
    view: View = View()
    toolkit: str = "art_advtransform"
    method: str = ""
    cost: int = 0
    continues: bool = False
    stage: str = ""
    published: float | None = None

    def run(self, target: Target) -> Tensor:
        """Attacked images, shape of ``target.x``."""
        if not self.continues or target.best is None or target.alive is None:
            target = replace(target, best=None, alive=None)
            with target.seen(self.view) as model:
                return self.generate(target, model).detach()
        attacked, rows = target.best.clone(), torch.nonzero(target.alive > SURVIVES).flatten()
        if len(rows):
            survivors = target.subset(rows)
            with survivors.seen(self.view) as model:
                attacked[rows] = self.generate(survivors, model).detach().to(attacked)
        return attacked

    def identity(self) -> str:
        """sha256 of name, view and functions: another one, and an earlier result is of another attack."""
        return identity((self.name, self.view, self.toolkit, self.method, self.continues, self.generate))

    def missing(self, target: Target) -> str | None:
        """Why it can't run on ``target``, with the remedy; ``None`` if it can."""
        if find_spec(self.toolkit) is None:
            return f'needs {self.toolkit}: pip install "art-advtransform[{self.toolkit}]"'
        if self.view.needs_transform and target.defended.transform is None:
            return "there is no transform to see through"
        if self.view.frozen and target.defended.draws_itself:
            return "needs a model that stays the same while it runs: f_a draws itself"
        if self.view.model == "surrogates" and not target.surrogates:
            return "needs a surrogate net"
        if self.view.surrogate is not None and self.view.surrogate not in target.surrogates:
            if target.defended.transform is None:
                return "there is no g to transfer through: f_a itself is attacked"
            return f"needs a surrogate called {self.view.surrogate}"
        if self.view.model == "surrogates" and not self.view.chosen(target.surrogates):
            return f"needs a surrogate net other than {', '.join(self.view.without)}"
        if self.view.model == "twin" and target.twin is None:
            return "needs an independent copy of f_a"
        if self.view.gradient == "reparameterized" and target.imitation is None:
            return "needs a network h that imitates g"
        return None


def from_function(name: str, function: Callable[[Tensor, Tensor], Tensor], kind: Kind = "white box") -> Attack:
    """A plain function (images, labels) to attacked images as an attack.

    Example:
        >>> brighter = from_function("brighter", lambda x, y: x + 8 / 255, "black box")
        >>> brighter.kind
        'black box'
    """
    return Attack(name, lambda target, model: function(target.x, target.y), kind)


def settings(options: Mapping[str, Any], threat: ThreatModel) -> dict[str, Any]:
    """``options`` of a toolkit's attack; those that depend on the budget are functions of the threat model."""
    return {name: value(threat) if callable(value) else value for name, value in options.items()}


class _MeanLogProbabilities(nn.Module):
    """Not of logits: a net of large ones would drown the others."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x).log_softmax(1) for model in self.models]).mean(0)
