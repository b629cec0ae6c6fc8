"""L5: attacks made for this defence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.backward import GradientEstimator
from art_advtransform.defended import DefendedModel
from art_advtransform.transform import random_start


def momentum_pgd(max_iter: int = 400, gradient: str | GradientEstimator = "identity", momentum: float = 0.9) -> Attack:
    """Many cheap steps instead of few dear ones: one draw a step, and momentum averages the draws.

    m <- momentum m + grad / |grad|_1 (Dong et al. 2018, arXiv 1710.06081), steps of eps/8 falling linearly to eps/40; the mean of
    the last half of the iterates is returned, so that no single draw decides. Among defences that draw at test time many fall
    to EOT 1 with enough steps sooner than to dear EOT (Lee & Kim 2023, arXiv 2303.09051).
    """

    def generate(target: Target, model: DefendedModel) -> Tensor:
        eps, low_high = target.threat.eps, target.threat.clip_values
        if target.best is None:
            x_adv = (target.x + random_start(target.x, eps, target.generator(0))).clamp(*low_high)
        else:
            x_adv = target.best.clone()
        m, total = torch.zeros_like(x_adv), torch.zeros_like(x_adv)
        for t in range(max_iter):
            m = momentum * m + _direction(model, x_adv, target.y)
            eps_step = eps / 8 * (1 - 0.8 * t / max_iter)
            x_adv = target.project(x_adv + eps_step * m.sign())
            if t >= max_iter // 2:
                total += x_adv
        return total / (max_iter - max_iter // 2)

    rule = gradient if isinstance(gradient, str) else type(gradient).__name__.lower()
    title = "BPDA-I" if rule == "identity" else f"BPDA, {rule}"
    name = f"{title}: momentum PGD-{max_iter}, EOT 1"
    return Attack(name, generate, "white box", View(gradient=gradient), method="momentum_pgd", cost=max_iter)


def average_start(max_iter: int = 40, nb_draws: int = 50) -> Attack:
    """PGD on f_a from E[g(x)] (section 4.2 of the paper), towards the ball: where it ends is projected on the budget.

    The paper starts there without a budget and sees artefacts: "they are not valid". Projected, it is valid.
    """

    def generate(target: Target, model: DefendedModel) -> Tensor:
        defended, eps = target.view(), target.threat.eps
        x_adv = torch.zeros_like(target.x)
        for _ in range(nb_draws):
            x_adv += defended.transformed(target.x).detach() / nb_draws
        for _ in range(max_iter):
            x_adv = x_adv + eps / 10 * _direction(model, x_adv, target.y).sign()
        return x_adv

    name = f"average start: PGD-{max_iter} on f_a from E[g(x)] of {nb_draws} draws"
    return Attack(name, generate, "transfer", View("f_a", uses_g=True), method="average_start", cost=nb_draws)


def _direction(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the cross-entropy, scaled to mean absolute value 1 for each image; NaN, which momentum would keep, is 0."""
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    gradient = torch.autograd.grad(loss, x)[0].nan_to_num(0.0, 0.0, 0.0)
    scale = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / scale.clamp_min(torch.finfo(x.dtype).tiny)
