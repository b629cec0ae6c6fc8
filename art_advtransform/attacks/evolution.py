"""L5: evolution strategies on the expected loss: what jumps in g, no derivative shows, but its average over noise does."""

from __future__ import annotations

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import Keeper, Loss, climb, crossing, looks_cost, margin, nb_looks
from art_advtransform.config import check_count, check_positive
from art_advtransform.defended import DefendedModel

# Pairs of an image at a time.
_BATCH = 128


def evolution_strategy(
    max_iter: int, nb_samples: int, sigma: float = 1 / 2, *, momentum: float = 0.9, continues: bool = True
) -> Attack:
    """Climbs the smoothed expected loss E_u E_D margin(f_a(g_D(x + sigma u)), y) (Salimans et al. 2017), jumps of g included.

    What BPDA-I explains of a pair's difference is taken from the gradient under the pair's own D, which has no such noise; the
    pairs have to tell the rest. Steps are small, from 1/8 of the budget falling to 1/32, or as large as so few must be to cross it:
    a hundred pairs say little of a direction in thousands of pixels.

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
        noise = sigma * target.threat.eps

        def direction(x_adv: Tensor) -> Tensor:
            return evolution_gradient(model, x_adv, margin, target.y, nb_samples, noise, generator)

        looks = nb_looks(max_iter, 3 * nb_samples, keeper.nb_draws)
        eps_steps = crossing(1 / 8, max_iter)
        climb(keeper, keeper.best, direction, max_iter, momenta=(momentum,), eps_steps=eps_steps, looks=looks)
        return keeper.best

    name = f"evolution strategy: {max_iter} steps, {nb_samples} pairs, sigma {sigma:g} eps"
    first_look = looks_cost(1) if continues else 0
    cost = max_iter * nb_samples * 3 + looks_cost(nb_looks(max_iter, 3 * nb_samples)) + first_look
    return Attack(name, generate, "white box", View(), method="evolution_strategy", cost=cost, continues=continues)


def evolution_gradient(
    model: DefendedModel,
    x: Tensor,
    loss: Loss,
    y: Tensor,
    nb_samples: int,
    sigma: float,
    generator: torch.Generator,
) -> Tensor:
    """Gradient of E_u E_D loss(model_D(x + sigma u), y), u ~ N(0, I), from antithetic pairs with the same D; shape of ``x``.

    The gradient at x under a pair's D, by the model's backward rule, is its control variate: whatever that is, the expectation
    is the same; where the loss is nearly linear in between, what is left to the noise of u are the jumps.
    """
    rows = []
    for image, label in zip(x, y, strict=True):
        total = torch.zeros_like(image)
        for begin in range(0, nb_samples, _BATCH):
            n = min(_BATCH, nb_samples - begin)
            u = torch.randn((n, *image.shape), generator=generator, dtype=x.dtype).to(x.device)
            starts = _starts(model, image, n)
            slopes = _slopes(model, image, starts, loss, label, n)
            points = torch.cat([image + sigma * u, image - sigma * u])
            with torch.no_grad():
                logits = model(points, None if starts is None else torch.cat([starts, starts]))
            plus, minus = loss(logits, label.expand(2 * n)).chunk(2)
            unexplained = plus - minus - 2 * sigma * (u * slopes).flatten(1).sum(1)
            total += slopes.sum(0) + torch.einsum("i,ichw->chw", unexplained, u) / (2 * sigma)
        rows.append(total / nb_samples)
    return torch.stack(rows)


def _starts(model: DefendedModel, image: Tensor, n: int) -> Tensor | None:
    """D of every pair; ``None`` where it is not drawn."""
    if model.transform is None or model.is_frozen:
        return None
    return model.transform.draw_start(image.expand(n, *image.shape))


def _slopes(model: DefendedModel, image: Tensor, starts: Tensor | None, loss: Loss, label: Tensor, n: int) -> Tensor:
    """Gradient of the loss at the image under every D, (n, C, H, W); where D is not drawn, one for all."""
    rows = 1 if starts is None else n
    leaf = image.expand(rows, *image.shape).clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(model(leaf, starts), label.expand(rows)).sum(), leaf)
    return torch.nan_to_num(gradient).expand(n, *image.shape)
