"""L5: the BPDA attack that the authors' released code runs, with each of its faults as a switch.

What it does differently from an honest BPDA-I: it takes the gradient of f_a at g(x + d) + x, where the image is added twice; it
climbs the loss of argmax f_a(x), a class that f_a, trained on g(x) alone, mostly gets wrong; it divides the sum of m + 1 draws by
m; it does not clip x + d to the valid range; it uses one draw, and 20 steps of 0.003. To be run beside what mends it, never as
evidence.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.defended import DefendedModel

FAULTS: dict[str, str] = {
    "double x": "the gradient is that at g(x + d) + x, not at g(x + d)",
    "label": "argmax f_a(x) is attacked, not the true label",
    "division": "the sum of m + 1 draws is divided by m: under sign steps this changes nothing",
    "clip": "x + d may leave the valid range, and is clipped when it is judged",
    "one draw": "a step follows one draw; mended: 10",
    "few steps": "20 steps of 3/31 of the budget; mended: 100 of 1/8",
}


def released_bpda(mended: Collection[str] = ()) -> Attack:
    """The released attack without the faults in ``mended``, which are keys of ``FAULTS``.

    Raises:
        ValueError: if a fault is unknown.

    Example:
        >>> released_bpda().name
        'released BPDA as coded'
        >>> released_bpda(["label"]).name
        'released BPDA, mended: label'
    """
    unknown = [fault for fault in mended if fault not in FAULTS]
    if unknown:
        raise ValueError(f"unknown fault {unknown[0]!r}; known: {', '.join(FAULTS)}")
    draws = 10 if "one draw" in mended else 1
    max_iter = 100 if "few steps" in mended else 20

    def generate(target: Target, model: DefendedModel) -> Tensor:
        x, eps, (low, high) = target.x, target.threat.eps, target.threat.clip_values
        eps_step = eps / 8 if "few steps" in mended else eps * 3 / 31
        with torch.no_grad():
            y = target.y if "label" in mended else target.bare()(x).argmax(1)
        d = torch.zeros_like(x)
        for _ in range(max_iter):
            added = torch.zeros_like(x) if "double x" in mended else x
            total = _summed_gradient(target, model, x + d, added, y, draws)
            mean = total / (draws if "division" in mended else max(draws - 1, 1))
            d = (d + eps_step * mean.sign()).clamp(-eps, eps)
            if "clip" in mended:
                d = (x + d).clamp(low, high) - x
        return x + d

    done = [fault for fault in FAULTS if fault in mended]
    name = f"released BPDA, mended: {', '.join(done)}" if done else "released BPDA as coded"
    return Attack(name, generate, "white box", View(uses_g=True), method="released_bpda", cost=max_iter * draws)


def _summed_gradient(
    target: Target, model: DefendedModel, x_adv: Tensor, added: Tensor, y: Tensor, draws: int
) -> Tensor:
    """Gradient of the loss of f_a at g(x_adv) + added, summed over draws of g; the released code adds x."""
    with torch.no_grad():
        z = model.transformed(x_adv.repeat_interleave(draws, 0)) + added.repeat_interleave(draws, 0)
    z.requires_grad_()
    loss = F.cross_entropy(target.bare()(z), y.repeat_interleave(draws), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, z)
    target.queries.forward += len(z)
    target.queries.backward += len(z)
    summed: Tensor = gradient.unflatten(0, (len(x_adv), draws)).sum(1)
    return summed
