"""L5: a learned surrogate: a student of the expected prediction, trained around the images that it then attacks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import Keeper, climb, expected_gradient, looks_cost, margin
from art_advtransform.config import check_count
from art_advtransform.defended import DefendedModel

_BATCH_SIZE, _LEARNING_RATE = 128, 1e-3
_PGD_STEPS, _LOOKS = 40, 2


def student(
    nb_rounds: int = 4, nb_points: int = 24, nb_draws: int = 4, nb_epochs: int = 4, *, continues: bool = True
) -> Attack:
    """s(x), trained to give E_D softmax f_a(g_D(x)) at the images, in noise around them and at attack iterates; PGD on s.

    s is smooth where g jumps. It begins as a copy of a net that classifies x itself where the attacker has one (f_a knows g(x)
    alone). Every round asks the model at points around x, around where the attack on s went last, so that s is put right where it
    was fooled, and around other images, whose answers are not all alike.

    Args:
        nb_rounds: of asking, training and attacking.
        nb_points: points for each image and round, and as many elsewhere.
        nb_draws: draws that the mean prediction at a point is taken over.
        nb_epochs: over all points so far, in each round.
        continues: start from the strongest result so far, on the survivors.

    Raises:
        ValueError: if a number is not positive.
    """
    for name, value in (("nb_rounds", nb_rounds), ("nb_points", nb_points), ("nb_draws", nb_draws)):
        check_count(name, value)
    check_count("nb_epochs", nb_epochs)

    def generate(target: Target, model: DefendedModel) -> Tensor:
        generator, keeper = target.generator(4), Keeper(target)
        s = copy.deepcopy(_beginning(target)).eval().requires_grad_(True)
        optimizer = torch.optim.Adam(s.parameters(), _LEARNING_RATE)
        if target.best is None:
            keeper.look(keeper.best)  # later rounds start from it unless they find a better one
        x_adv = keeper.best
        points, answers = [], []
        for _ in range(nb_rounds):
            around = torch.cat([_around(target, x_adv, nb_points, generator), _elsewhere(target, nb_points, generator)])
            points.append(around)
            answers.append(expected_probabilities(model, around, nb_draws))
            train_student(s, optimizer, torch.cat(points), torch.cat(answers), nb_epochs, generator)
            x_adv = climb(
                keeper,
                keeper.best,
                lambda x: expected_gradient(s, x, margin, target.y, 1),
                _PGD_STEPS,
                momenta=(0.5,),
                looks=_LOOKS,
            )
        return keeper.best

    name = f"student of the mean prediction: {nb_rounds} rounds of {nb_points} points, {nb_draws} draws"
    cost = looks_cost(1) + nb_rounds * (2 * (nb_points + 1) * nb_draws + looks_cost(_LOOKS))
    return Attack(name, generate, "transfer", View(uses_g=True), method="student", cost=cost, continues=continues)


def expected_probabilities(model: DefendedModel, x: Tensor, nb_draws: int) -> Tensor:
    """E_D softmax f_a(g_D(x)), (n, K), from ``nb_draws`` draws."""
    draws = nb_draws if model.randomized else 1
    with torch.no_grad():
        parts = [model(part.repeat_interleave(draws, 0)).softmax(1) for part in x.split(256)]
    mean: Tensor = torch.cat(parts).unflatten(0, (len(x), draws)).mean(1)
    return mean


def train_student(
    s: nn.Module,
    optimizer: torch.optim.Optimizer,
    points: Tensor,
    answers: Tensor,
    nb_epochs: int,
    generator: torch.Generator,
) -> None:
    """Minimise the cross-entropy of ``answers`` (n, K) and s at ``points`` (n, C, H, W); batch norm keeps its statistics."""
    for _ in range(nb_epochs):
        for batch in torch.randperm(len(points), generator=generator).split(_BATCH_SIZE):
            rows = batch.to(points.device)
            optimizer.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(s(points[rows]), answers[rows]).backward()
            optimizer.step()


def _beginning(target: Target) -> nn.Module:
    """The net that s begins as."""
    known = [target.surrogates[name] for name in ("adversarial", "undefended") if name in target.surrogates]
    return known[0] if known else target.defended.classifier


def _around(target: Target, x_adv: Tensor, nb_points: int, generator: torch.Generator) -> Tensor:
    """Half of the points around x, half around ``x_adv``: they themselves, and uniform noise inside the budget around them."""
    eps, x = target.threat.eps, torch.cat([target.x, target.x])
    noise = _noise(target, (-(-nb_points // 2) - 1, *x.shape), generator)
    moved = (torch.cat([target.x, x_adv]) + noise).clamp(x - eps, x + eps).clamp(*target.threat.clip_values)
    return torch.cat([torch.cat([target.x, x_adv])[None], moved]).flatten(0, 1)


def _elsewhere(target: Target, nb_points: int, generator: torch.Generator) -> Tensor:
    """As many points in noise around images of others, or around x where there are none."""
    others = target.x if target.others is None else target.others
    rows = torch.randint(len(others), (nb_points * len(target.x),), generator=generator)
    points = others[rows.to(others.device)]
    return (points + _noise(target, points.shape, generator)).clamp(*target.threat.clip_values)


def _noise(target: Target, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    uniform = torch.rand(tuple(shape), generator=generator, dtype=target.x.dtype).to(target.x.device)
    return target.threat.eps * (2 * uniform - 1)
