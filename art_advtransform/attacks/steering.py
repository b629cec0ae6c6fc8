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
_NB_TARGETS = 10  # all of most data sets


def steered_pgd(
    max_iter: int = 20,
    eot_samples: int = 4,
    weight: float = 1.0,
    nb_targets: int = _NB_TARGETS,
    *,
    continues: bool = True,
) -> Attack:
    """For each class k in turn, PGD on E_D margin(f_a(g_D(x)), y), and on k being the class that g works on.

    BPDA-I can't see that g's target depends on x; f_b alone, which is differentiable, tells. The two gradients have the same mean
    size, the second times ``weight``; it vanishes where k leads by 1. Of all classes tried, what is right in the fewest draws.

    Args:
        max_iter: steps for each class.
        eot_samples: draws of D a step.
        weight: of what steers.
        nb_targets: classes k, those that f_b is nearest to choosing where it begins; all, where there are no more.
        continues: start from the strongest result so far, on the survivors.

    Raises:
        ValueError: if a number is not positive.
    """
    check_count("max_iter", max_iter)
    check_count("eot_samples", eot_samples)
    check_positive("weight", weight)
    check_count("nb_targets", nb_targets)

    def generate(target: Target, model: DefendedModel) -> Tensor:
        assert target.defended.transform is not None  # View(uses_g=True)
        f_b, objective = target.defended.transform.model, target.defended.transform.config.objective
        keeper, begin = Keeper(target), target.start()
        draws = eot_samples if model.randomized else 1
        for k in steered_to(f_b, begin, nb_targets, objective):

            def direction(x_adv: Tensor, k: Tensor = k) -> Tensor:
                loss_gradient = expected_gradient(model, x_adv, margin, target.y, draws)
                return scaled(loss_gradient) + weight * scaled(steering_gradient(f_b, x_adv, k, objective))

            climb(keeper, begin, direction, max_iter, momenta=(0.5,), looks=_LOOKS)
        return keeper.best

    name = f"steering f_b to each class: PGD-{max_iter}, {eot_samples} draws"
    name += "" if nb_targets == _NB_TARGETS else f", {nb_targets} classes"
    cost = nb_targets * (max_iter * eot_samples + looks_cost(_LOOKS)) + looks_cost(1)
    return Attack(name, generate, "white box", View(uses_g=True), method="steered_pgd", cost=cost, continues=continues)


def steered_to(f_b: torch.nn.Module, x: Tensor, nb_targets: int, objective: Objective = "least_likely") -> list[Tensor]:
    """Classes (n,), one after the other, of the ``nb_targets`` that f_b is nearest to choosing at ``x``; all: in their order."""
    with torch.no_grad():
        logits = f_b(x.to(next(f_b.parameters())))
    nb_classes = logits.shape[1]
    if nb_classes <= nb_targets:
        return list(torch.arange(nb_classes, device=logits.device)[:, None].expand(-1, len(x)))
    nearest: Tensor = logits.topk(nb_targets, 1, largest=objective == "most_likely").indices
    return list(nearest.T)


def steering_gradient(f_b: torch.nn.Module, x: Tensor, k: Tensor, objective: Objective = "least_likely") -> Tensor:
    """Gradient of min over j != k of f_b(x)_j - f_b(x)_k, zero where that is above 1; shape of ``x``, with a class ``k`` (n,) each.

    Where g works on the most likely class, that of f_b(x)_k - max over j != k of f_b(x)_j.
    """
    leaf = x.detach().to(next(f_b.parameters())).requires_grad_()
    with torch.enable_grad():
        logits = f_b(leaf) if objective == "least_likely" else -f_b(leaf)
        others = logits.scatter(1, k[:, None], torch.inf)
        lead = (others.amin(1) - logits.gather(1, k[:, None])[:, 0]).clamp_max(_BELOW_BY)
        (gradient,) = torch.autograd.grad(lead.sum(), leaf)
    return gradient.to(x)
