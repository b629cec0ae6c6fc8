"""L6: checks of the gradients: 4 zero or missing, 5 a noisy landscape, 12 agreement of independent estimates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict
from art_advtransform.diagnostics.paths import loss_and_gradient, losses

_ZERO_SHARE = 0.05
# Mean relative change of the loss in a small box (Pintor et al. 2021, indicator 2).
_NOISY = 0.5
_COSINE = 0.5


@check(4, "gradients are neither zero nor missing")
def zero_gradients(case: Case) -> Verdict:
    """Share of images that have none at the clean image or halfway through the attack (Pintor et al. 2021, indicator 1)."""
    view = case.target(4).view(eot_samples=case.eot_samples)
    shares = []
    for x in (case.x, case.path.iterates[len(case.path.iterates) // 2]):
        gradient = loss_and_gradient(view, x, case.y)[1]
        size = gradient.abs().flatten(1).amax(1)
        shares.append(float(((size == 0) | ~torch.isfinite(size)).double().mean()))
    return verdict(
        max(shares) <= _ZERO_SHARE,
        f"{100 * shares[0]:.1f} % of the clean images have a zero or missing gradient, {100 * shares[1]:.1f} % halfway",
        clean=shares[0],
        halfway=shares[1],
    )


@check(5, "the loss is no noise")
def noisy_landscape(case: Case, size: float = 4 / 255) -> Verdict:
    """Mean relative change of the loss under U(-4/255, 4/255), for EOT over fresh draws and for a fixed D."""
    near = case.uniform(size, 5)
    view = case.target(5).view(eot_samples=case.eot_samples)
    changes = {"EOT": _change(losses(view, case.x, case.y), losses(view, near, case.y))}
    with case.defended.frozen(case.seed) as model:
        changes["fixed D"] = _change(losses(model, case.x, case.y), losses(model, near, case.y))
    return verdict(
        max(changes.values()) <= _NOISY,
        f"under noise of {size:.4f} the loss changes by {100 * changes['EOT']:.0f} % of itself with EOT "
        f"{case.eot_samples}, by {100 * changes['fixed D']:.0f} % with a fixed D",
        eot=changes["EOT"],
        fixed=changes["fixed D"],
    )


def _change(before: Tensor, after: Tensor) -> float:
    """Mean absolute change, as a share of the mean."""
    return float((after - before).abs().mean() / before.abs().mean().clamp_min(1e-12))


@check(12, "independent EOT gradients agree")
def agreement(case: Case) -> Verdict:
    """Cosine and sign agreement of gradients over independent halves of the draws, against their number."""
    if not case.defended.randomized:
        return not_applicable("the model is not randomised")
    counts = sorted({1, 2, 4, max(case.eot_samples // 2, 1), case.eot_samples, 2 * case.eot_samples})
    cosines: list[tuple[float, float]] = []
    signs: list[tuple[float, float]] = []
    for draws in counts:
        one, other = (
            loss_and_gradient(case.target(12, half).view(eot_samples=draws), case.x, case.y)[1].flatten(1)
            for half in (0, 1)
        )
        cosines.append((draws, float(F.cosine_similarity(one, other).mean())))
        signs.append((draws, float((one.sign() == other.sign()).double().mean())))
    found, agreed = dict(cosines)[case.eot_samples], dict(signs)[case.eot_samples]
    result = verdict(
        found >= _COSINE,
        f"two gradients of {case.eot_samples} draws each have cosine {found:.2f} and agree in {100 * agreed:.0f} % of the signs",
        cosine=found,
        signs=agreed,
    )
    return Verdict(
        result.status,
        result.reason,
        result.figures,
        {"cosine against EOT draws": cosines, "sign agreement against EOT draws": signs},
    )
