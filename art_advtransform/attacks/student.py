"""L5: a learned surrogate: a student of the expected prediction, trained around the images that it then attacks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import Keeper, climb, expected_gradient, looks_cost, margin
from art_advtransform.config import check_count
from art_advtransform.defended import DefendedModel

_BATCH_SIZE, _LEARNING_RATE = 128, 1e-3
_PGD_STEPS = 40


def student(
    nb_rounds: int = 4, nb_points: int = 24, nb_draws: int = 4, nb_epochs: int = 4, *, continues: bool = True
) -> Attack:
    """s(x), trained to give E_D softmax f_a(g_D(x)) at the images, in noise around them and at attack iterates; PGD on s.

    s is smooth where g jumps. It begins as a copy of f_a, and learns in the neighbourhood of these images alone. Every round asks
    the model at points around x and around where the attack on s went last, so that s is put right where it was fooled.

    Args:
        nb_rounds: of asking, training and attacking.
        nb_points: points for each image and round.
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
        s = copy.deepcopy(target.defended.classifier).eval().requires_grad_(True)
        optimizer = torch.optim.Adam(s.parameters(), _LEARNING_RATE)
        x_adv = keeper.best
        points, answers = [], []
        for _ in range(nb_rounds):
            around = _around(target, torch.cat([target.x, x_adv]), -(-nb_points // 2), generator)
            points.append(around)
            answers.append(expected_probabilities(model, around, nb_draws))
            train_student(s, optimizer, torch.cat(points), torch.cat(answers), nb_epochs, generator)
            x_adv = climb(
                keeper,
                keeper.best,
                lambda x: expected_gradient(s, x, margin, target.y, 1),
                _PGD_STEPS,
                momenta=(0.5,),
            )
        return keeper.best

    name = f"student of the mean prediction: {nb_rounds} rounds of {nb_points} points, {nb_draws} draws"
    cost = nb_rounds * (2 * -(-nb_points // 2) * nb_draws + looks_cost())
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


def _around(target: Target, centres: Tensor, nb_points: int, generator: torch.Generator) -> Tensor:
    """Uniform noise of the budget's size around every centre, inside the budget; the centres themselves are the first points."""
    eps, x = target.threat.eps, torch.cat([target.x, target.x])
    noise = torch.rand((nb_points - 1, *centres.shape), generator=generator, dtype=centres.dtype).to(centres.device)
    moved = (centres + eps * (2 * noise - 1)).clamp(x - eps, x + eps).clamp(*target.threat.clip_values)
    return torch.cat([centres[None], moved]).flatten(0, 1)
