"""L5: PGD on the expected loss, with everything that the strong evaluation varies: loss, draws, momentum, steps, backward rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from art_advtransform.attacks.base import Attack, Seen, Target, View
from art_advtransform.attacks.climbing import (
    Keeper,
    Loss,
    climb,
    cross_entropy,
    expected_gradient,
    looks_cost,
    margin,
    nb_looks,
    towards,
)
from art_advtransform.backward import GradientEstimator
from art_advtransform.config import check_count
from art_advtransform.defended import DefendedModel

LossName = Literal["ce", "margin", "targeted"]
_NB_TARGETS = 3


def expectation_pgd(
    max_iter: int,
    eot_samples: int,
    *,
    loss: LossName = "margin",
    gradient: str | GradientEstimator = "identity",
    rule: str | None = None,
    momenta: Sequence[float] = (0.0,),
    eps_steps: tuple[float, float] | None = None,
    nb_steps: int | None = None,
    seen: Seen = "defended",
    continues: bool = True,
) -> Attack:
    """PGD along the gradient of E_D loss(f_a(g_D(x)), y), the mean over draws of the loss, not the loss of mean logits.

    Args:
        max_iter: steps.
        eot_samples: draws of D a step; 1 where the model has no randomness.
        loss: "ce": cross-entropy; "margin": the lead of the best other class, capped where a draw is won; "targeted": the same
            towards each of the three wrong classes that are most likely at the start in turn, which costs as much as three.
        gradient: backward rule of g.
        rule: what the entry's name calls it; ``None``: by ``seen`` and the name of ``gradient``.
        momenta: see :func:`~art_advtransform.attacks.climbing.climb`.
        eps_steps: first and last step as shares of the budget; ``None``: see there, too.
        nb_steps: steps N of g as the attacker differentiates it; ``None``: those of the defence.
        seen: what is differentiated, see :class:`~art_advtransform.attacks.base.View`.
        continues: start from the strongest result so far, on the survivors.

    Returns:
        The attack; it returns, of the iterates that it looks at and what it began with, the one that is right in the fewest of 16
        draws. A transfer without targets, which has no use for queries, returns the last.

    Raises:
        ValueError: if a number or the loss is not one of those above.

    Example:
        >>> expectation_pgd(100, 4, momenta=(0, 0.9)).name
        'BPDA-I: mean margin, PGD-100, 4 draws, momentum 0/0.9'
    """
    check_count("max_iter", max_iter)
    check_count("eot_samples", eot_samples)
    if loss not in get_args(LossName):
        raise ValueError(f"unknown loss {loss!r}; known: {', '.join(get_args(LossName))}")
    if not momenta or not all(0 <= beta < 1 for beta in momenta):
        raise ValueError(f"expected momenta in [0, 1), got {tuple(momenta)}")

    queries = seen == "defended" or loss == "targeted"

    def generate(target: Target, model: DefendedModel) -> Tensor:
        keeper = Keeper(target, looks=queries)
        draws, x_adv = eot_samples if model.randomized else 1, keeper.best

        for chosen in _losses(loss, keeper):

            def direction(x_adv: Tensor, chosen: Loss = chosen) -> Tensor:
                return expected_gradient(model, x_adv, chosen, target.y, draws)

            looks = nb_looks(max_iter, draws, keeper.nb_draws) if queries else 0
            x_adv = climb(keeper, keeper.best, direction, max_iter, momenta=momenta, eps_steps=eps_steps, looks=looks)
        return keeper.best if queries else x_adv

    rule = _title(seen, gradient) if rule is None else rule
    name = f"{rule}: mean {loss}, PGD-{max_iter}, {eot_samples} {'draw' if eot_samples == 1 else 'draws'}"
    name += "" if tuple(momenta) == (0.0,) else f", momentum {'/'.join(f'{beta:g}' for beta in momenta)}"
    name += "" if nb_steps is None else f", N = {nb_steps}"
    name += "" if seen == "defended" else f", on {'an independent copy' if seen == 'twin' else seen}"
    climbs = _NB_TARGETS if loss == "targeted" else 1
    first_look = looks_cost(1) if queries and (continues or loss == "targeted") else 0
    looks, steps = (
        nb_looks(max_iter, eot_samples) if queries else 0,
        max_iter * eot_samples if seen == "defended" else 0,
    )
    return Attack(
        name,
        generate,
        "white box" if seen == "defended" else "transfer",
        View(seen, gradient=gradient, max_iter=nb_steps),
        method="expectation_pgd",
        cost=first_look + climbs * (steps + looks_cost(looks)),
        continues=continues,
    )


def _title(seen: Seen, gradient: str | GradientEstimator) -> str:
    if seen not in ("defended", "twin"):
        return "transfer"
    named = gradient if isinstance(gradient, str) else type(gradient).__name__.lower()
    return "BPDA-I" if named == "identity" else f"BPDA, {named}"


def _losses(name: LossName, keeper: Keeper) -> list[Loss]:
    if name != "targeted":
        return [cross_entropy if name == "ce" else margin]
    if keeper.target.best is None:  # else it has been looked at
        keeper.look(keeper.best)
    return [towards(classes) for classes in keeper.ranking[:, :_NB_TARGETS].T]
