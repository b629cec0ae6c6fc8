"""L5: steering f_b: whoever decides which class is least likely decides where g goes."""

from __future__ import annotations

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.climbing import Keeper, climb, expected_gradient, looks_cost, margin, scaled
from art_advtransform.config import Objective, check_count, check_positive
from art_advtransform.defended import DefendedModel

# f_b's chosen class is to lie so far below all others that noise doesn't bring it back.
_BELOW_BY = 1.0
# On the way to each class, its end; more would cost more than the climb.
_LOOKS = 1


def steered_pgd(max_iter: int = 20, eot_samples: int = 4, weight: float = 1.0, *, continues: bool = True) -> Attack:
    """For each class k in turn, PGD on E_D margin(f_a(g_D(x)), y), and on k being the class that g works on.

    BPDA-I can't see that g's target depends on x; f_b alone, which is differentiable, tells. The two gradients have the same mean
    size, the second times ``weight``; it vanishes where k leads by 1. Of all classes the result that is right in the fewest draws.

    Args:
        max_iter: steps for each class.
        eot_samples: draws of D a step.
        weight: of what steers.
        continues: start from the strongest result so far, on the survivors.

    Raises:
        ValueError: if a number is not positive.
    """
    check_count("max_iter", max_iter)
    check_count("eot_samples", eot_samples)
    check_positive("weight", weight)

    def generate(target: Target, model: DefendedModel) -> Tensor:
        assert target.defended.transform is not None  # View(uses_g=True)
        f_b, objective = target.defended.transform.model, target.defended.transform.config.objective
        keeper, begin = Keeper(target), target.start()
        draws = eot_samples if model.randomized else 1
        for k in range(target.nb_classes):

            def direction(x_adv: Tensor, k: int = k) -> Tensor:
                loss_gradient = expected_gradient(model, x_adv, margin, target.y, draws)
                return scaled(loss_gradient) + weight * scaled(steering_gradient(f_b, x_adv, k, objective))

            climb(keeper, begin, direction, max_iter, momenta=(0.5,), looks=_LOOKS)
        return keeper.best

    name = f"steering f_b to each class: PGD-{max_iter}, {eot_samples} draws"
    # ten classes, here as for all but one of the data sets
    cost = 10 * (max_iter * eot_samples + looks_cost(_LOOKS)) + looks_cost(1)
    return Attack(name, generate, "white box", View(uses_g=True), method="steered_pgd", cost=cost, continues=continues)


def steering_gradient(f_b: torch.nn.Module, x: Tensor, k: int, objective: Objective = "least_likely") -> Tensor:
    """Gradient of min over j != k of f_b(x)_j - f_b(x)_k, zero where that is above 1; shape of ``x``.

    Where g works on the most likely class, that of f_b(x)_k - max over j != k of f_b(x)_j.
    """
    leaf = x.detach().to(next(f_b.parameters())).requires_grad_()
    with torch.enable_grad():
        logits = f_b(leaf) if objective == "least_likely" else -f_b(leaf)
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], 1)
        lead = (others.amin(1) - logits[:, k]).clamp_max(_BELOW_BY)
        (gradient,) = torch.autograd.grad(lead.sum(), leaf)
    return gradient.to(x)
