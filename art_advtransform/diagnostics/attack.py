"""L6: checks of the attack: 6 silent success, 7 convergence, 8 success on its own model, 9 and 10 budgets, 11 effort."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from art_advtransform.diagnostics.case import Case, Verdict, check, finite, not_applicable, verdict

_SHARE = 0.05
_RISING = 0.05
_UNBOUNDED = 0.02
_SWEEP = (0, 2, 4, 8, 16, 32, 64)  # of 255
_POINT = 0.01
_ROUNDING = 1e-9
# Iterates whose success is looked at.
_LOOKED_AT = 8


@check(6, "no success is lost on the way")
def silent_success(case: Case) -> Verdict:
    """Images that some iterate gets wrong in most draws, but the end does not (Pintor et al. 2021, indicator 3)."""
    iterates = case.path.iterates
    numbers = sorted({round(k * (len(iterates) - 1) / _LOOKED_AT) for k in range(_LOOKED_AT + 1)})
    project = case.target(0).project
    on_the_way = torch.stack([case.shares(project(iterates[k]), select=True) < 0.5 for k in numbers]).any(0)
    lost = float((on_the_way & (case.shares(case.x_adv) >= 0.5)).double().mean())
    return verdict(
        lost <= _SHARE,
        f"{100 * lost:.1f} % of the images are wrong in most draws on the way (at {len(numbers)} of {len(iterates)} "
        f"iterates), and right at the end",
        share=lost,
    )


@check(7, "the attack has converged")
def convergence(case: Case) -> Verdict:
    """The loss of what is left no longer rises over the last fifth of the steps (Pintor et al. 2021, indicator 4).

    Images that are won have a loss that drowns the others'. By more than a share of all that it moved, and than its noise.
    """
    if len(case.path.losses) < 3:
        return not_applicable(f"{len(case.path.losses)} steps have no last fifth")
    left = (case.shares(case.x_adv) >= 0.5).to(case.path.losses.device)
    by_step = case.path.losses[:, left if left.any() else torch.ones_like(left)].mean(1)
    part = max(len(by_step) // 10, 1)
    before, last = by_step[-2 * part : -part], by_step[-part:]
    span = (by_step.max() - by_step.min()).clamp_min(1e-12)
    rise = float((last.mean() - before.mean()) / span)
    noise = 0.0 if part == 1 else 2 * float(((before.var() + last.var()) / part).sqrt() / span)
    curve = [(float(t), finite(float(loss))) for t, loss in enumerate(by_step)]
    told = (
        f"the loss of the {int(left.sum())} images that are left" if left.any() else "no image is left; the loss of all"
    )
    result = verdict(
        rise <= max(_RISING, noise) or (not bool(left.any()) and math.isfinite(rise)),
        f"over the last {part} of {len(by_step)} steps {told} rises by {100 * rise:.1f} % of what it moved in all",
        rise=rise,
    )
    return Verdict(result.status, result.reason, result.figures, {"loss against steps of the attack": curve})


@check(8, "what fools the model that the attack sees fools the model")
def own_model(case: Case) -> Verdict:
    """Images wrong on the attack's own draws and backward model, right in most fresh draws (indicator 5)."""
    fails = float((case.path.fooled & (case.shares(case.x_adv) >= 0.5)).double().mean())
    return verdict(
        fails <= _SHARE,
        f"{100 * fails:.1f} % of the images fool what the attack differentiates, but not fresh draws",
        share=fails,
    )


@check(9, "an unbounded budget reaches every image")
def unbounded(case: Case) -> Verdict:
    """Accuracy under the same attack with the whole range as the budget (indicator 6).

    From the image itself: a random start is noise there, which of many classes has the right one as good as never.
    """
    low, high = case.threat.clip_values
    accuracy = case.accuracy(case.attacked(9, threat=replace(case.threat, eps=high - low), best=case.x.clone()))
    return verdict(
        accuracy <= _UNBOUNDED,
        f"with a budget of {high - low:g} accuracy falls to {100 * accuracy:.1f} %",
        accuracy=accuracy,
    )


@check(10, "accuracy falls with the budget, down to chance")
def budget_sweep(case: Case) -> Verdict:
    """Budgets of 0 to 64/255: no rise beyond the noise of the draws, and no better than chance at the end."""
    rights = [
        case.rights(case.attacked(10, size, threat=replace(case.threat, eps=size / 255)) if size else case.x)
        for size in _SWEEP
    ]
    curve = [(size / 255, float(right.mean())) for size, right in zip(_SWEEP, rights, strict=True)]
    rises = max(b[1] - a[1] for a, b in pairwise(curve))
    chance = 1 / case.target(10).nb_classes
    ok = curve[-1][1] <= chance + case.noise(rights[-1])
    ok = ok and all(float((b - a).mean()) <= max(_POINT, case.noise(a, b)) for a, b in pairwise(rights))
    result = verdict(
        ok,
        f"accuracy goes from {100 * curve[0][1]:.1f} % to {100 * curve[-1][1]:.1f} % at {_SWEEP[-1]}/255 (chance "
        f"{100 * chance:.0f}); its largest rise is {100 * max(rises, 0):.1f} points",
        rise=rises,
        end=curve[-1][1],
    )
    return Verdict(result.status, result.reason, result.figures, {"accuracy against budget": curve})


@check(11, "more effort changes little, less changes much")
def effort(case: Case) -> Verdict:
    """One step does less than many; twice the steps, the draws or the starts change less than a point.

    A change of more than a point that the noise of few images and draws could be is no proof of either; one for the worse says
    that the attack fails at some settings.
    """
    usual = case.rights(case.x_adv)
    rights = {
        "one step": case.rights(case.attacked(11, 0, max_iter=1)),
        "twice the steps": case.rights(case.attacked(11, 1, max_iter=2 * case.max_iter)),
        "twice the draws": case.rights(case.attacked(11, 2, eot_samples=2 * case.eot_samples)),
        "twice the starts": _best_of_two(case, case.x_adv, case.attacked(11, 3)),
    }
    base, accuracies = float(usual.mean()), {name: float(right.mean()) for name, right in rights.items()}
    # image by image, and with room for rounding: a gain of one image is as much as it is allowed to be
    gains = {
        name: abs(float((usual - right).mean())) - _ROUNDING for name, right in rights.items() if name != "one step"
    }
    # where nothing is drawn, an image more or less says nothing
    least = _POINT if case.defended.randomized else max(_POINT, 1 / len(case.x))
    tolerances = {name: max(least, case.noise(usual, right)) for name, right in rights.items()}
    # an attack that does nothing would not gain by more of it, either
    less = accuracies["one step"] > base + tolerances["one step"] or base <= tolerances["one step"]
    ok = less and all(gain <= tolerances[name] for name, gain in gains.items())
    told = ", ".join(f"{name} {100 * accuracy:.1f} %" for name, accuracy in accuracies.items())
    tolerated = f"changes up to {100 * max(tolerances[name] for name in gains):.1f} points say nothing"
    result = verdict(ok, f"accuracy {100 * base:.1f} %; with {told}; {tolerated}", base=base, **accuracies)
    if ok and max(gains.values()) > _POINT:
        result = replace(
            result, status="not applicable", reason=f"{result.reason}, so that these images are too few to tell"
        )
    by_draws = [
        (float(draws), case.accuracy(case.attacked(11, 4, draws, eot_samples=draws)))
        for draws in sorted({1, max(case.eot_samples // 2, 1)})
    ]
    by_draws += [(float(case.eot_samples), base), (2.0 * case.eot_samples, accuracies["twice the draws"])]
    curves = {"accuracy against EOT draws": sorted(dict(by_draws).items())} if case.defended.randomized else {}
    return Verdict(result.status, result.reason, result.figures, curves)


def _best_of_two(case: Case, first: Tensor, second: Tensor) -> Tensor:
    """As :meth:`Case.rights`, where the worse of two results is chosen for each image, on draws that don't score."""
    worse = case.shares(second, select=True) < case.shares(first, select=True)
    return case.rights(torch.where(worse.view(-1, 1, 1, 1).to(first.device), second, first))
