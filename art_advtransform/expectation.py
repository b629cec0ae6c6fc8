"""L6: E[g(x)], the mean of g(x) over draws of D, and how far it is from x (Table 1, Figs. 2, 4 and 9 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from art_advtransform.config import check_count
from art_advtransform.layer import LLPGDTransform, check_images
from art_advtransform.randomness import keyed_generator
from art_advtransform.transform import random_start

_TRANSFORMATION = 13  # keeps these draws apart from those of an evaluation with the same seed


@dataclass(frozen=True)
class Distance:
    """Distance of E[g(x)] to x over images, in pixel units ([0, 1] images).

    The paper gives one number and its text has lost the norm, hence three.

    Attributes:
        mean: mean absolute difference of a pixel.
        rms: root of the mean squared difference of a pixel.
        max: largest absolute difference of a pixel (L-inf), at most eps.
        nb_images, nb_draws: what the expectation was taken over; with few draws the noise of D adds to all three.
    """

    mean: float
    rms: float
    max: float
    nb_images: int
    nb_draws: int


def draws_of_g(transform: LLPGDTransform, x: Tensor, nb_draws: int, seed: int = 0) -> Tensor:
    """g(x) for ``nb_draws`` draws.

    Args:
        transform: g.
        x: images (n, C, H, W).
        nb_draws: how many.
        seed: of the draws.

    Returns:
        Transformed images (nb_draws, n, C, H, W).

    Raises:
        TypeError, ValueError: for bad images or numbers.
    """
    _check(x, nb_draws, seed)
    return torch.stack([_draw(transform, x, k, seed) for k in range(nb_draws)])


def expected_g(
    transform: LLPGDTransform,
    x: Tensor,
    nb_draws: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """E[g(x)], the mean over ``nb_draws`` draws, shape of ``x``; ``progress`` is called with (draws done, all draws)."""
    _check(x, nb_draws, seed)
    total = torch.zeros_like(x)
    for k in range(nb_draws):
        total += _draw(transform, x, k, seed)
        if progress is not None:
            progress(k + 1, nb_draws)
    return total / nb_draws


def distance(expected: Tensor, x: Tensor, nb_draws: int) -> Distance:
    """How far ``expected`` = E[g(x)] over ``nb_draws`` draws is from ``x``.

    Raises:
        ValueError: if there are no images.

    Example:
        >>> distance(torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, 1, 2, 2), nb_draws=8)
        Distance(mean=0.5, rms=0.5, max=0.5, nb_images=2, nb_draws=8)
    """
    if len(x) == 0:
        raise ValueError("expected at least one image")
    difference = (expected - x).double()
    mean, rms, largest = difference.abs().mean(), difference.square().mean().sqrt(), difference.abs().max()
    return Distance(float(mean), float(rms), float(largest), len(x), nb_draws)


def _check(x: Tensor, nb_draws: int, seed: int) -> None:
    check_images(x)
    check_count("nb_draws", nb_draws)
    check_count("seed", seed, minimum=0)


def _draw(transform: LLPGDTransform, x: Tensor, k: int, seed: int) -> Tensor:
    with torch.no_grad():
        if not transform.config.random_start:
            only: Tensor = transform(x)
            return only
        like = torch.empty(x.shape, dtype=transform.model.dtype, device="cpu")
        start = random_start(like, transform.config.eps, keyed_generator(seed, _TRANSFORMATION, k)).to(x.device)
        g: Tensor = transform(x, start)
        return g
