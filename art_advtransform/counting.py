"""L6: counting for a randomised model: predictions over keyed draws, and what is read off them.

Draw k of image i depends on (seed, purpose, i, k) alone: not on the batch, nor on how many draws are made, nor on which attack is
counted, so that attacks are compared on common draws. Draws that choose (``SELECTION``) never score (``SCORING``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator
from art_advtransform.transform import random_start

SELECTION, SCORING = 0, 1
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
        Classes (n, nb_draws), int64.
    """
    model = defended.view().eval()
    with torch.no_grad():
        numbers = range(indices, indices + len(x)) if isinstance(indices, int) else indices
        if not model.randomized:
            only: Tensor = model(x).argmax(1, keepdim=True)
            return only.expand(-1, nb_draws).clone()
        if model.transform is None:
            return _own_draws(model, x, nb_draws, numbers, (seed, purpose))
        shape, eps = x.shape[1:], model.transform.config.eps
        like = torch.empty(shape, dtype=model.transform.model.dtype)
        classes = []
        for i, image in zip(numbers, x, strict=True):
            generator = keyed_generator(seed, purpose, i)
            starts = torch.stack([random_start(like, eps, generator) for _ in range(nb_draws)]).to(x.device)
            parts = [model(image.expand(len(part), *shape), part).argmax(1) for part in starts.split(batch_size)]
            classes.append(torch.cat(parts))
    return torch.stack(classes) if classes else torch.empty(0, nb_draws, dtype=torch.int64)


def _own_draws(model: DefendedModel, x: Tensor, nb_draws: int, numbers: Sequence[int], key: tuple[int, int]) -> Tensor:
    """Classes (n, nb_draws) of a classifier that draws from global state; one call each, so that no draw hangs on another."""
    rows = []
    for i, image in zip(numbers, x, strict=True):
        row = []
        for k in range(nb_draws):
            with global_seed(derived_seed(*key, i, k)):
                row.append(model(image[None]).argmax(1))
        rows.append(torch.cat(row))
    return torch.stack(rows) if rows else torch.empty(0, nb_draws, dtype=torch.int64)


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
    votes = F.one_hot(predicted, int(max(predicted.max(), y.max())) + 1).sum(1)
    own = votes.gather(1, y[:, None])
    return (votes.scatter(1, y[:, None], -1) < own).all(1)


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
