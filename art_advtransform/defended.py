"""L3: DefendedModel, f_a(g(x)) as one nn.Module: what every host attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from art_advtransform.backward import GradientEstimator
from art_advtransform.config import check_count
from art_advtransform.frozen import default_batch_size
from art_advtransform.layer import LLPGDTransform, check_images, sharing_copy
from art_advtransform.transform import random_start

EotAverage = Literal["logits", "probabilities"]


@dataclass
class Queries:
    """Passes through the whole model, counted image by image and draw by draw.

    Attributes:
        forward: evaluations of f_a(g(.)) of a single image and draw.
        backward: those that were differentiated.
    """

    forward: int = 0
    backward: int = 0

    def reset(self) -> None:
        """Count from zero again."""
        self.forward = self.backward = 0


class DefendedModel(nn.Module):
    """x -> logits of f_a(g(x)), averaged over ``eot_samples`` draws of g; shape-preserving.

    In eval mode f_a's parameters count as constants: an attacker's ``backward()`` leaves no ``.grad`` on them and spends no
    time on it. In train mode they are differentiated as usual. Images are cast to f_a's precision (ART's decision-based
    attacks promote theirs to float64).

    Args:
        classifier: f_a, nn.Module, images (n, C, H, W) in [0, 1] to logits (n, K); normalisation belongs inside it.
        transform: g, or ``None`` for no defence (g = identity), so that both kinds go through the same code.
        eot_samples: draws of D for every image and call.
        eot_average: ``"logits"``: mean logits; ``"probabilities"``: log of the mean probabilities.

    Raises:
        TypeError, ValueError: for a bad option, and from ``forward`` for bad images.

    Example:
        >>> f_a = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> model = DefendedModel(f_a, LLPGDTransform(f_a), eot_samples=4).eval()
        >>> model(torch.rand(5, 3, 2, 2)).shape
        torch.Size([5, 3])
        >>> model.queries
        Queries(forward=20, backward=0)
        >>> x = torch.rand(2, 3, 2, 2)
        >>> with model.frozen(seed=0):
        ...     torch.equal(model(x), model(x))
        True
    """

    def __init__(
        self,
        classifier: nn.Module,
        transform: LLPGDTransform | None,
        *,
        eot_samples: int = 1,
        eot_average: EotAverage = "logits",
    ) -> None:
        super().__init__()
        if not isinstance(classifier, nn.Module):
            raise TypeError(f"expected classifier to be a torch.nn.Module, got {type(classifier).__name__}")
        if transform is not None and not isinstance(transform, LLPGDTransform):
            raise TypeError(f"expected transform to be an LLPGDTransform or None, got {type(transform).__name__}")
        _check_eot(eot_samples, eot_average)
        self.classifier = classifier
        self.transform = transform
        self.eot_samples = eot_samples
        self.eot_average: EotAverage = eot_average
        self.queries = Queries()
        self._frozen_seed: int | None = None
        self.one_start = False
        self.training = classifier.training  # f_a's own layers keep the mode they are in

    @property
    def randomized(self) -> bool:
        """Whether two calls on the same image may differ: D is drawn, or f_a draws itself and says so (``randomized = True``)."""
        drawn = self.transform is not None and self.transform.config.random_start
        return (drawn and self._frozen_seed is None) or self.draws_itself

    @property
    def draws_itself(self) -> bool:
        """Whether f_a says that it draws (``randomized = True``), from global state."""
        return bool(getattr(self.classifier, "randomized", False))

    @property
    def is_frozen(self) -> bool:
        """Whether this is inside :meth:`frozen`."""
        return self._frozen_seed is not None

    def view(
        self,
        *,
        gradient: str | GradientEstimator | None = None,
        eot_samples: int = 1,
        eot_average: EotAverage = "logits",
        max_iter: int | None = None,
        generator: torch.Generator | None = None,
        classifier: nn.Module | None = None,
    ) -> DefendedModel:
        """The same networks as an attacker sees them: own backward rule, EOT, steps N of g, draws, and query count.

        With ``classifier`` another net stands behind g. Made inside :meth:`frozen`, it stays frozen.
        """
        transform = self.transform
        if transform is not None:
            transform = transform.with_gradient(gradient or transform.gradient, generator, max_iter)
        _check_eot(eot_samples, eot_average)
        seen = sharing_copy(self)  # of a subclass, too, and with hooks: what is attacked is what was given
        seen.classifier, seen.transform = self.classifier if classifier is None else classifier, transform
        seen.eot_average, seen.queries, seen.training = eot_average, Queries(), seen.classifier.training
        # without random starts every draw is the same one
        drawn = transform is not None and transform.config.random_start
        seen.eot_samples = eot_samples if drawn or seen.randomized else 1
        return seen

    @contextmanager
    def frozen(self, seed: int) -> Iterator[DefendedModel]:
        """A context in which D is fixed: the same for every image and call, so that the map is deterministic.

        With ``eot_samples`` > 1 the draws are D_1 .. D_S, all fixed, or with ``one_start`` all D_1: what is averaged then are
        the draws of an f_a that draws for itself. For attacks that assume a deterministic model.

        Args:
            seed: which D; the same seed gives the same D for images of the same shape.
        """
        before, self._frozen_seed = self._frozen_seed, seed
        try:
            yield self
        finally:
            self._frozen_seed = before

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Logits (n, K) of f_a(g(x)); with ``start`` = D, shape of ``x``, those of the one given draw."""
        check_images(x)
        if start is not None and (self.transform is None or self.eot_samples > 1):
            raise ValueError("expected no start: it needs a transform and eot_samples=1")
        n, draws = len(x), self.eot_samples if self.transform is not None or self.randomized else 1
        repeated = x.to(self._dtype()).repeat_interleave(draws, dim=0)
        logits = self._classify(self._transformed(repeated, start))
        self.queries.forward += n * draws
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return self._average(logits.unflatten(0, (n, draws))) if draws > 1 else logits

    def transformed(self, x: Tensor) -> Tensor:
        """g(x) for one draw, the fixed one inside :meth:`frozen`; x itself where there is no transform. Shape of ``x``."""
        check_images(x)
        return self._transformed(x.to(self._dtype()), None, draws=1)

    def _transformed(self, repeated: Tensor, start: Tensor | None, draws: int | None = None) -> Tensor:
        if self.transform is None:
            return repeated
        if start is None and self._frozen_seed is not None and self.transform.config.random_start:
            # one D per draw, the same for every image; repeat_interleave put an image's draws side by side
            draws = (1 if self.one_start else self.eot_samples) if draws is None else draws
            generator = torch.Generator().manual_seed(self._frozen_seed)
            fixed = torch.empty(draws, *repeated.shape[1:], dtype=repeated.dtype, device="cpu")
            start = random_start(fixed, self.transform.config.eps, generator).to(repeated.device)
            start = start.repeat(len(repeated) // draws, 1, 1, 1)
        transformed: Tensor = self.transform(repeated, start)
        return transformed

    def _classify(self, x: Tensor) -> Tensor:
        if self.training:
            logits: Tensor = self.classifier(x)
            return logits
        # many draws make a large batch, which f_a takes in chunks that suit the cache: the gradient of 1280 images through a
        # ResNet18 of width 20 takes 1.8 s instead of 6.9 on two cores
        parts = x.split(default_batch_size(x))
        # one that draws for itself would draw anew for the gradient
        if len(x) * x.shape[2] * x.shape[3] > _KEPT and x.requires_grad and not self.draws_itself:
            return torch.cat([self._again(part) for part in parts])
        return torch.cat([_with_constants(self.classifier, part) for part in parts])

    def _again(self, x: Tensor) -> Tensor:
        logits: Tensor = checkpoint(_with_constants, self.classifier, x, use_reentrant=False)
        return logits

    def _average(self, logits: Tensor) -> Tensor:
        if self.eot_average == "logits":
            return logits.mean(1)
        return logits.log_softmax(2).logsumexp(1) - math.log(self.eot_samples)

    def _count_backward(self, gradient: Tensor) -> None:
        self.queries.backward += len(gradient)

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for _, p in _parameters(self.classifier) if p.is_floating_point()), torch.float32)


def _check_eot(eot_samples: int, eot_average: str) -> None:
    check_count("eot_samples", eot_samples)
    if eot_average not in get_args(EotAverage):
        raise ValueError(f"unknown eot_average {eot_average!r}; known: {', '.join(get_args(EotAverage))}")


# f_a's activations are kept for a backward pass through as many pixels (1,024 images of 32x32); beyond, a chunk's are made again:
# 50 images with 500 draws each would fill 118 GB behind a ResNet18 of width 64, whose forward pass is cheap beside g's
_KEPT = 1024 * 32 * 32


def _with_constants(classifier: nn.Module, x: Tensor) -> Tensor:
    """Logits with no gradient to the parameters."""
    logits = _called_with_constants(classifier, x)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected f_a to return logits (n, K), got {what}")
    return logits


def _parameters(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Its parameters by name; replicas of nn.DataParallel keep theirs as plain attributes."""
    yield from net.named_parameters()
    for prefix, module in net.named_modules():
        for name, value in vars(module).get("_former_parameters", {}).items():
            yield f"{prefix}.{name}".lstrip("."), value


def _called_with_constants(classifier: nn.Module, x: Tensor) -> object:
    if not isinstance(classifier, (torch.jit.ScriptModule, nn.DataParallel)):
        constants = {name: p.detach() for name, p in _parameters(classifier)}
        logits: object = torch.func.functional_call(classifier, constants, (x,))
        return logits
    # torch.func refuses these two
    wanted = [p for p in classifier.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        logits = classifier(x)
    finally:
        for p in wanted:
            p.requires_grad_(True)
    return logits
