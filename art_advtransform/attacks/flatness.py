"""L5: transfer from where a net's loss is flat: what lies on no narrow ridge of one net is high ground in another, too."""

from __future__ import annotations

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Seen, Target, View
from art_advtransform.attacks.climbing import Keeper, climb, cross_entropy, expected_gradient, scaled
from art_advtransform.config import check_count
from art_advtransform.defended import DefendedModel

# The paper's: neighbours lie within three budgets, the second gradient a tenth of one further down, and both have the same weight.
# That tenth is the paper's step; here steps are others, and a look further down that shrank with them would be no penalty.
RADIUS, BELOW, BALANCE = 3.0, 0.1, 0.5


def flat_transfer(max_iter: int = 40, nb_neighbours: int = 10, *, seen: Seen = "surrogates") -> Attack:
    """PGN (Ge et al. 2023, arXiv 2306.05225) on another net than the model: momentum PGD that is penalised for steep places.

    A step follows the mean over neighbours x' ~ U(x - 3 eps, x + 3 eps) of the gradient there and the one a step further down;
    their difference stands for the Hessian. Steps and momentum (0.9, a running mean) are those of
    :func:`~art_advtransform.attacks.climbing.climb`, from the strongest result so far, else at random, and neighbours ten where the
    paper has twenty. A continuing attack; it has no use for queries and returns its last iterate.

    Args:
        max_iter: steps.
        nb_neighbours: of a step, two gradients each.
        seen: what is differentiated, "f_a", "f_b" or "surrogates": see :class:`~art_advtransform.attacks.base.View`.

    Raises:
        ValueError: if a number is not positive, or what is seen has g in it.

    Example:
        >>> flat_transfer(10, 5, seen="f_b").name
        'transfer: PGN-10, 5 neighbours, on f_b'
    """
    check_count("max_iter", max_iter)
    check_count("nb_neighbours", nb_neighbours)
    if seen in ("defended", "twin"):
        raise ValueError(f"expected a net without g: f_a, f_b or surrogates, got {seen}")

    def generate(target: Target, model: DefendedModel) -> Tensor:
        keeper, generator, eps = Keeper(target, looks=False), target.generator(6), target.threat.eps

        def direction(x_adv: Tensor) -> Tensor:
            return flat_gradient(model, x_adv, target.y, nb_neighbours, RADIUS * eps, BELOW * eps, generator)

        return climb(keeper, keeper.best, direction, max_iter, momenta=(0.9,), looks=0)

    name = f"transfer: PGN-{max_iter}, {nb_neighbours} neighbours, on {seen}"
    return Attack(name, generate, "transfer", View(seen), method="flat_transfer", continues=True)


def flat_gradient(
    model: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    nb_neighbours: int,
    radius: float,
    below_by: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean over neighbours of the gradient of the cross-entropy, half there and half ``below_by`` further down; shape of ``x``."""
    total = torch.zeros_like(x)
    for _ in range(nb_neighbours):
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        near = x + radius * noise.to(x)
        here = expected_gradient(model, near, cross_entropy, y, 1)
        below = expected_gradient(model, near - below_by * scaled(here), cross_entropy, y, 1)
        total += (1 - BALANCE) * here + BALANCE * below
    return total / nb_neighbours
