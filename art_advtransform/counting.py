"""L6: counting for a randomised model: predictions over keyed draws, and what is read off them.

Draw k of image i depends on (seed, purpose, i, k) alone: not on the batch, nor on how many draws are made, nor on which attack is
counted, so that attacks are compared on common draws (for ``PRESELECTION`` the judging gives each attack a seed of its own). Draws
that choose (all purposes but ``SCORING``) never score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.climbing import WON_BY, margin
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator
from art_advtransform.transform import random_start

# What draws are for: choosing a result, scoring it, confirming one that the choice takes for won, and asking first, by few, whether
# a later result is worth the choice: in the draws that chose the one before, that would look better than it is.
SELECTION, SCORING, CONFIRMATION, PRESELECTION = 0, 1, 3, 5
DRAWS_FOR_ANY = 10


@dataclass(frozen=True)
class Interval:
    """A share of images with its 95 % bootstrap interval over images; all in [0, 1]."""

    value: float
    low: float
    high: float


def predictions(
    defended: DefendedModel,
    x: Tensor,
    nb_draws: int,
    seed: int,
    purpose: int,
    indices: int | Sequence[int] = 0,
    batch_size: int = 512,
) -> Tensor:
    """Predicted classes over fresh draws.

    Args:
        defended: f_a(g(.)); where it is not randomised, its one prediction stands for every draw.
        x: images (n, C, H, W).
        nb_draws: draws for each image.
        seed: of the evaluation.
        purpose: ``SELECTION`` or ``SCORING``: disjoint draws.
        indices: numbers of the images in the whole evaluation, or that of the first of consecutive ones.
        batch_size: images and draws that f_a sees at a time.

    Returns:
        Classes (n, nb_draws), int64; -1, which is no label, where the logits have NaN.
    """
    classes = [
        _classes(logits).expand(nb_draws)
        for logits in _logits(defended, x, nb_draws, (seed, purpose), indices, batch_size)
    ]
    return torch.stack(classes) if classes else torch.empty(0, nb_draws, dtype=torch.int64)


def shares_and_leads(
    defended: DefendedModel,
    x: Tensor,
    y: Tensor,
    nb_draws: int,
    seed: int,
    purpose: int,
    indices: int | Sequence[int] = 0,
) -> tuple[Tensor, Tensor]:
    """Share of the draws in which each image is right, and the mean lead of the best other class over its label.

    Arguments as for :func:`predictions`, with the labels (n,).

    Returns:
        Two tensors (n,), float64, on the CPU; a draw counts in the lead with at most 2, one whose logits have NaN with 2.
    """
    shares, leads = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    for logits, label in zip(_logits(defended, x, nb_draws, (seed, purpose), indices), y, strict=True):
        labels = label.expand(len(logits))
        shares.append((_classes(logits) == labels).double().mean(0, keepdim=True).cpu())
        leads.append(margin(logits, labels).double().nan_to_num(WON_BY).mean(0, keepdim=True).cpu())
    return torch.cat(shares), torch.cat(leads)


def _classes(logits: Tensor) -> Tensor:
    """The predicted class of every row (n,); -1 where there is none: argmax would take NaN for the largest."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def _logits(
    defended: DefendedModel,
    x: Tensor,
    nb_draws: int,
    key: tuple[int, int],
    indices: int | Sequence[int],
    batch_size: int = 512,
) -> Iterator[Tensor]:
    """For every image its logits over the draws, (nb_draws, K); (1, K) where all draws are the same."""
    model = defended.view().eval()
    numbers = range(indices, indices + len(x)) if isinstance(indices, int) else indices
    with torch.no_grad():
        if len(x) and not model.randomized:
            yield from model(x).split(1)
            return
        for i, image in zip(numbers, x, strict=True):
            starts = _starts(model, image, nb_draws, (*key, i))
            if model.draws_itself:
                yield _own_draws(model, image, nb_draws, starts, (*key, i))
                continue
            assert starts is not None
            parts = [model(image.expand(len(part), *x.shape[1:]), part) for part in starts.split(batch_size)]
            yield torch.cat(parts)


def _starts(model: DefendedModel, image: Tensor, nb_draws: int, key: tuple[int, ...]) -> Tensor | None:
    """D of every draw (nb_draws, C, H, W); ``None`` where g has no randomness, or D is known."""
    if model.transform is None or model.is_frozen or not model.transform.config.random_start:
        return None
    like, generator = torch.empty(image.shape, dtype=model.transform.model.dtype), keyed_generator(*key)
    eps = model.transform.config.eps
    return torch.stack([random_start(like, eps, generator) for _ in range(nb_draws)]).to(image.device)


def _own_draws(
    model: DefendedModel, image: Tensor, nb_draws: int, starts: Tensor | None, key: tuple[int, ...]
) -> Tensor:
    """Logits (nb_draws, K) where f_a draws from global state; one call each, so that no draw hangs on another."""
    drawn = []
    for k in range(nb_draws):
        with global_seed(derived_seed(*key, k)):
            drawn.append(model(image[None], None if starts is None else starts[k : k + 1]))
    return torch.cat(drawn)


@dataclass(frozen=True)
class Count:
    """What the predictions (n, K) of n images over K draws say.

    Attributes:
        mean: expected accuracy of one prediction: the headline, comparable with the paper's.
        majority: accuracy of the vote of all K draws; a tie is no win.
        any: share of images that are right in every one of the first 10 draws.
        per_image: share of draws that are right, for each image, shape (n,).
        nb_draws: K.
    """

    mean: Interval
    majority: Interval
    any: Interval
    per_image: Tensor
    nb_draws: int


def count(predicted: Tensor, y: Tensor, seed: int = 0) -> Count:
    """Count predictions (n, K) against labels (n,).

    Raises:
        ValueError: if there are no images.
    """
    if len(predicted) == 0:
        raise ValueError("expected at least one image to count")
    right = predicted == y[:, None]
    vote = _won(predicted, y)
    per_image = right.double().mean(1)
    return Count(
        interval(per_image, seed),
        interval(vote.double(), seed),
        interval(right[:, :DRAWS_FOR_ANY].all(1).double(), seed),
        per_image,
        predicted.shape[1],
    )


def _won(predicted: Tensor, y: Tensor) -> Tensor:
    """Whether the label has more votes than any other class; a tie must not depend on how classes are numbered."""
    # no class (-1) votes, too
    votes = F.one_hot(predicted + 1, int(max(predicted.max(), y.max())) + 2).sum(1)
    own = votes.gather(1, y[:, None] + 1)
    return (votes.scatter(1, y[:, None] + 1, -1) < own).all(1)


def interval(per_image: Tensor, seed: int = 0) -> Interval:
    """Mean over images with the 95 % percentile bootstrap interval (scipy, 9,999 resamples of the images).

    Example:
        >>> interval(torch.tensor([1.0, 1.0, 1.0]))
        Interval(value=1.0, low=1.0, high=1.0)
    """
    values = per_image.double().cpu().numpy()
    if len(values) < 2 or values.min() == values.max():
        # resampling equal values can't vary: scipy would warn of a degenerate distribution
        value = float(values.mean())
        return Interval(value, value, value)
    drawn = bootstrap(
        (values,),
        np.mean,
        n_resamples=9999,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = drawn.confidence_interval
    return Interval(float(values.mean()), float(low), float(high))


def choose(right: Tensor) -> Tensor:
    """Per image, the attack whose result is right least often; of equals the one that is strongest over all images.

    Args:
        right: share of right selection draws, by attack and image, shape (attacks, n).

    Returns:
        Number of the attack, shape (n,).

    Example:
        >>> choose(torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.6, 0.0]]))
        tensor([1, 0, 1])
    """
    strongest_first = right.mean(1).argsort(stable=True)
    return strongest_first[right[strongest_first].argmin(0)]
