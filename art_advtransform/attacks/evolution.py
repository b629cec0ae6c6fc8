"""L5: evolution strategies on the expected loss: what jumps in g, no derivative shows, but its average over noise does."""

from __future__ import annotations

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import Keeper, Loss, climb, expected_gradient, looks_cost, margin, nb_looks
from art_advtransform.config import check_count, check_positive
from art_advtransform.defended import DefendedModel

# Images and draws that the model sees at a time.
_BATCH = 512
# Draws of the slope that is known.
_KNOWN_DRAWS = 8


def evolution_strategy(
    max_iter: int, nb_samples: int, sigma: float = 1 / 2, *, momentum: float = 0.9, continues: bool = True
) -> Attack:
    """Climbs the smoothed expected loss E_u E_D margin(f_a(g_D(x + sigma u)), y) (Salimans et al. 2017), jumps of g included.

    What BPDA-I explains of the differences is taken from its gradient, which has no such noise; the pairs have to tell the rest.
    Steps are small, from 1/16 of the budget falling to 1/64: a hundred pairs say little of a direction in thousands of pixels.

    Args:
        max_iter: steps.
        nb_samples: antithetic pairs a step; both of a pair have the same D.
        sigma: of the noise, as a share of the budget.
        momentum: of the step's direction.
        continues: start from the strongest result so far, on the survivors.

    Raises:
        ValueError: if a number is not positive.
    """
    check_count("max_iter", max_iter)
    check_count("nb_samples", nb_samples)
    check_positive("sigma", sigma)

    def generate(target: Target, model: DefendedModel) -> Tensor:
        keeper, generator = Keeper(target), target.generator(3)
        draws = _KNOWN_DRAWS if model.randomized else 1

        def direction(x_adv: Tensor) -> Tensor:
            known = expected_gradient(model, x_adv, margin, target.y, draws)
            noise = sigma * target.threat.eps
            return evolution_gradient(model, x_adv, margin, target.y, nb_samples, noise, generator, known)

        climb(keeper, keeper.best, direction, max_iter, momenta=(momentum,), eps_steps=(1 / 16, 1 / 64))
        return keeper.best

    name = f"evolution strategy: {max_iter} steps, {nb_samples} pairs, sigma {sigma:g} eps"
    cost = max_iter * (nb_samples * 2 + _KNOWN_DRAWS) + looks_cost(nb_looks(max_iter))
    return Attack(name, generate, "white box", View(), method="evolution_strategy", cost=cost, continues=continues)


def evolution_gradient(
    model: DefendedModel,
    x: Tensor,
    loss: Loss,
    y: Tensor,
    nb_samples: int,
    sigma: float,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """Gradient of E_u E_D loss(model_D(x + sigma u), y), u ~ N(0, I), from antithetic pairs with the same D; shape of ``x``.

    ``known``, shape of ``x``, is a control variate: whatever it is, the expectation is the same; near the gradient, less noisy.
    """
    rows = []
    known = torch.zeros_like(x) if known is None else known
    for image, label, slope in zip(x, y, known, strict=True):
        total = torch.zeros_like(image)
        for begin in range(0, nb_samples, _BATCH // 2):
            n = min(_BATCH // 2, nb_samples - begin)
            u = torch.randn((n, *image.shape), generator=generator, dtype=x.dtype).to(x.device)
            points = torch.cat([image + sigma * u, image - sigma * u])
            with torch.no_grad():
                plus, minus = loss(_same_draw_twice(model, points), label.expand(2 * n)).chunk(2)
            unexplained = plus - minus - 2 * sigma * torch.einsum("ichw,chw->i", u, slope)
            total += torch.einsum("i,ichw->chw", unexplained, u)
        rows.append(slope + total / (2 * sigma * nb_samples))
    return torch.stack(rows)


def _same_draw_twice(model: DefendedModel, points: Tensor) -> Tensor:
    if model.transform is None or model.is_frozen:
        logits: Tensor = model(points)
        return logits
    start = model.transform.draw_start(points[: len(points) // 2])
    logits = model(points, torch.cat([start, start]))
    return logits
