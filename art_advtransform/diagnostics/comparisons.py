"""L6: checks against other attacks and models: 13 known draws, 14 black box, 15 random corners, 16 positive controls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform.attacks.torchattacks_attacks import square
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics.case import Case, Verdict, check, half_interval, not_applicable, verdict
from art_advtransform.layer import LLPGDTransform

_FLAG = 0.002  # AutoAttack's
_POINT = 0.01
_SEEDS = 3
# Where known draws differ by more than that among themselves, the attack fails on some of them.
_KNOWN_NOISE = 0.1
_SQUARE_DRAWS = 10
_CONTROL = 0.02
# Of g's eps, in a positive control.
_SMALL = 0.01


@check(13, "a draw that the attacker knows is no harder")
def known_draw(case: Case) -> Verdict:
    """Accuracy with one D fixed for all images and known to the attacker, over three of them."""
    if not case.defended.randomized:
        return not_applicable("the model is not randomised")
    rights, known = case.rights(case.worst), []
    for seed in range(_SEEDS):
        with case.defended.frozen(seed) as model:
            known.append(case.accuracy(case.attacked(13, seed, model=model, eot_samples=1), model))
    mean, fresh = sum(known) / _SEEDS, float(rights.mean())
    noise = math.hypot(case.noise(rights), half_interval(known, unknown=1.0))
    tolerance = min(max(_POINT, noise), _KNOWN_NOISE)
    return verdict(
        mean <= fresh + tolerance,
        f"accuracy {100 * mean:.1f} % where D is known, {100 * fresh:.1f} % where it is fresh ({case.made_by}); the noise is "
        f"{100 * tolerance:.1f} points",
        known=mean,
        fresh=fresh,
    )


@check(14, "a black box finds nothing that the white box missed")
def black_box(case: Case) -> Verdict:
    """Per image the worse of the attack and Square: lower by more than 0.2 points, and the noise of the draws, is a flag.

    Of a randomised model Square accepts on means of 10 draws: the lowest of many single draws says little of an image.
    """
    draws = _SQUARE_DRAWS if case.defended.randomized else 1
    attack, target = square(max(case.nb_queries // draws, 1), draws), case.target(14)
    reason = attack.missing(target)
    if reason is not None:
        return not_applicable(reason)
    other = target.project(attack.run(target).detach())
    of_white, of_black = case.rights(case.worst), case.rights(other)
    worse = case.shares(other, select=True) < case.shares(case.worst, select=True)
    of_both = torch.where(worse[:, None], of_black, of_white)
    white, black, both = (float(rights.mean()) for rights in (of_white, of_black, of_both))
    tolerance = max(_FLAG, case.noise(of_white, of_both))
    return verdict(
        white - both <= tolerance,
        f"{case.made_by} {100 * white:.1f} %, Square with {case.nb_queries} evaluations {100 * black:.1f} %, the worse of both for "
        f"each image {100 * both:.1f} %; {100 * tolerance:.1f} points are tolerated",
        white=white,
        black=black,
        both=both,
    )


@check(15, "random corners are worse than the attack")
def random_corners(case: Case) -> Verdict:
    """Corners of the budget: the one with the highest loss in a single draw stands for the search."""
    n, each = len(case.x), max(case.nb_corners // len(case.x), 1)
    target = case.target(15)
    view, generator = target.view(), target.generator(0)
    best, highest = case.x.clone(), torch.full((n,), -torch.inf, dtype=case.x.dtype, device=case.x.device)
    with torch.no_grad():
        for _ in range(each):
            signs = torch.randint(0, 2, case.x.shape, generator=generator).to(case.x) * 2 - 1
            corner = target.project(case.x + case.threat.eps * signs)
            loss = nn.functional.cross_entropy(view(corner), case.y, reduction="none")
            better = loss > highest
            best[better], highest[better] = corner[better], loss[better]
    rights = case.rights(best), case.rights(case.worst)
    corners, attacked = (float(right.mean()) for right in rights)
    return verdict(
        attacked <= corners + case.noise(*rights),
        f"accuracy {100 * corners:.1f} % at the best of {each} corners for each image, {100 * attacked:.1f} % under {case.made_by}",
        corners=corners,
        attacked=attacked,
    )


@check(16, "the same code breaks what has no defence")
def positive_controls(case: Case) -> Verdict:
    """An undefended net, and one behind a quantisation by signs, or a clip, attacked with the identity as their backward rule;
    and one behind g itself, made so small that it is no defence.

    At the budget itself an image or two may be spared, by nets as small as those of digits; at twice the budget none.
    """
    if case.undefended is None:
        return not_applicable("needs an undefended net")
    low, high = case.threat.clip_values
    margin = 0.05 * (high - low)
    net, transform = case.undefended, case.defended.transform
    clip = StraightThrough(lambda x: x.clamp(low + margin, high - margin))
    controls = {
        "alone": DefendedModel(net, None),
        "behind a sign": DefendedModel(nn.Sequential(StraightThrough(_by_signs), net), None),
        "behind a clip": DefendedModel(nn.Sequential(clip, net), None),
    }
    if transform is not None:
        config = replace(transform.config, eps=_SMALL * transform.config.eps, eps_step=None)
        controls["behind a small g"] = DefendedModel(net, LLPGDTransform(transform.model, config))
    found, ok, told = {}, True, []
    for times, most in ((1, max(_CONTROL, 2 / len(case.x))), (2, _CONTROL)):
        threat = replace(case.threat, eps=times * case.threat.eps)
        for number, (name, model) in enumerate(controls.items()):
            attacked = case.attacked(16, number, model=model.eval(), eot_samples=1, threat=threat)
            accuracy = case.accuracy(attacked, model)
            found[f"{name}, {times} x eps"] = accuracy
            ok = ok and accuracy <= most
        accuracies = [f"{name} {100 * found[f'{name}, {times} x eps']:.1f} %" for name in controls]
        told.append(f"{', '.join(accuracies)} at {'the' if times == 1 else 'twice the'} budget")
    return verdict(ok, f"accuracy of an undefended net: {'; '.join(told)}", **found)


class StraightThrough(nn.Module):
    """``function``, with the identity as its derivative."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return x + (self.function(x) - x).detach()


def _by_signs(x: Tensor, levels: int = 8) -> Tensor:
    """x in ``levels`` levels, as a sum of signs, whose derivative is zero."""
    thresholds = (torch.arange(levels - 1, device=x.device, dtype=x.dtype) + 0.5) / (levels - 1)
    above: Tensor = torch.stack([torch.sign(x - threshold) for threshold in thresholds]).sum(0)
    return 0.5 + 0.5 * above / (levels - 1)
