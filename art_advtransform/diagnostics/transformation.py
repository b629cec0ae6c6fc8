"""L6: checks of the model itself: 1 clean accuracy, 2 budgets, 3 identity, 19 what AutoAttack would say."""

from __future__ import annotations

import copy
import logging

import torch

from art_advtransform.counting import SCORING, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics.case import Case, Verdict, check, not_applicable, verdict
from art_advtransform.diagnostics.paths import loss_and_gradient
from art_advtransform.randomness import global_seed, keyed_generator
from art_advtransform.transform import random_start

# Rounding of logits between batches of different size; a dependence on the batch is far above it.
_BATCH_TOLERANCE = 1e-3


@check(1, "clean accuracy; an image's result is its own")
def clean_accuracy(case: Case) -> Verdict:
    """Mean and deviation over draws; the same image in another batch, under the same D, has the same logits.

    These in float64: a GPU rounds each size of batch in another way, and 13 signs of g make much of it.
    """
    right = predictions(case.defended, case.x, case.nb_draws, case.seed, SCORING) == case.y[:, None]
    by_draw = right.double().mean(0)
    if case.defended.draws_itself:
        return not_applicable(f"clean accuracy {100 * by_draw.mean():.1f} %; f_a draws for itself, by its batch")
    exact, x = copy.deepcopy(case.defended).double().eval(), case.x.double()
    with torch.no_grad(), exact.frozen(case.seed) as model:
        together = model(x)
        alone = torch.cat([model(image[None]) for image in x])
        flipped = model(x.flip(0)).flip(0)
    moved = max(float((other - together).abs().max()) for other in (alone, flipped))
    moved /= max(float(together.abs().max()), 1e-12)
    deviation = float(by_draw.std()) if case.nb_draws > 1 else 0.0
    return verdict(
        moved < _BATCH_TOLERANCE,
        f"clean accuracy {100 * by_draw.mean():.1f} % (deviation {100 * deviation:.1f} over {case.nb_draws} draws); "
        f"in another batch logits move by {moved:.1e} of their size under the same D",
        accuracy=float(by_draw.mean()),
        deviation=deviation,
        moved=moved,
    )


@check(2, "g stays within eps, attacked images within the budget and the valid range")
def budgets(case: Case) -> Verdict:
    """On what the attack returns before it is projected, and on what the evaluation kept."""
    low, high = case.threat.clip_values
    raw = case.path.x_adv if case.found is None else torch.cat([case.path.x_adv, case.found])
    x = case.x if case.found is None else torch.cat([case.x, case.x])
    outside = float(torch.maximum((raw - x).abs() - case.threat.eps, torch.maximum(low - raw, raw - high)).max())
    finite = bool(torch.isfinite(raw).all())
    moved, eps = 0.0, 0.0
    if case.defended.transform is not None:
        eps = case.defended.transform.config.eps
        with torch.no_grad():
            for x in (case.x, case.x_adv, case.worst):
                g = case.target(2).view().transformed(x)
                moved = max(moved, float((g - x).abs().max()))
                finite = finite and bool(torch.isfinite(g).all())
    ok = finite and moved <= eps + 1e-6 and outside <= 1e-6
    return verdict(
        ok,
        f"|g(x) - x| is at most {moved:.4f} (eps {eps:g}), attacked images are {max(outside, 0):.1e} outside the budget, "
        f"{'no' if finite else 'some'} pixels are NaN or infinite",
        moved=moved,
        outside=outside,
    )


@check(3, "for a fixed D the Jacobian of g is the identity")
def identity(case: Case, h: float = 1e-7) -> Verdict:
    """Finite differences of g_D in float64 along a random direction, and AD's gradient, that of BPDA-I, and f_a's at g_D(x)."""
    if case.defended.transform is None:
        return not_applicable("there is no transform")
    model = copy.deepcopy(case.defended).double().eval()
    assert model.transform is not None
    x = case.x[:8].double()
    generator = keyed_generator(case.seed, 3)
    start = random_start(x.cpu(), model.transform.config.eps, generator).to(x)
    direction = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x) - 0.5
    with torch.no_grad():
        slope = (model.transform(x + h * direction, start) - model.transform(x, start)) / h
    off = (slope - direction).abs() > 1e-3
    share = float(off.double().mean())
    gradients = []
    for rule in ("autodiff", "identity"):
        view = model.view(gradient=rule)
        with view.frozen(case.seed), global_seed(case.seed):  # f_a may draw for itself
            gradients.append(loss_and_gradient(view, x, case.y[:8])[1])
    with model.frozen(case.seed), torch.no_grad():
        z = model.transformed(x)
    with global_seed(case.seed):  # by torch alone
        gradients.append(loss_and_gradient(DefendedModel(model.classifier, None).eval(), z, case.y[:8])[1])
    size = gradients[2].abs().max().clamp_min(1e-300)
    apart, from_f_a = (float((gradients[1] - other).abs().max() / size) for other in gradients[::2])
    return verdict(
        share < 0.01 and max(apart, from_f_a) < 1e-6,
        f"{100 * share:.2f} % of the pixels of g_D(x + h e) - g_D(x), h = {h:g}, are not h e; AD's gradient is "
        f"{apart:.1e} of its size from BPDA-I's, that of f_a at g_D(x) {from_f_a:.1e}",
        share=share,
        apart=apart,
        from_f_a=from_f_a,
    )


@check(19, "AutoAttack's own checks see a randomised, dynamic defence")
def flags(case: Case) -> Verdict:
    """``pyautoattack.checks``: their flags for randomness and test-time optimisation must be raised, not for probabilities."""
    try:
        from pyautoattack import checks
    except ModuleNotFoundError:
        return not_applicable('needs pyautoattack: pip install "art-advtransform[diagnose]"')
    raised: list[str] = []
    logger = _Heard(raised)
    model, x, y = case.defended.view().eval(), case.x[:32], case.y[:32]
    checks.check_randomized(model, x, y, n=5, logger=logger)
    random = len(raised)
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # it counts over all models that it has seen
    checks.check_dynamic(model, x[:2], logger=logger)
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    dynamic = len(raised) - random
    checks.check_range_output(model, x, logger=logger)
    probabilities = len(raised) - random - dynamic
    is_defended = case.defended.transform is not None
    ok = (bool(random), bool(dynamic), bool(probabilities)) == (case.defended.randomized, is_defended, False)
    told = [
        name
        for name, count in (("randomised", random), ("dynamic", dynamic), ("probabilities", probabilities))
        if count
    ]
    return verdict(
        ok, f"flags raised: {', '.join(told) or 'none'}", random=random, dynamic=dynamic, range=probabilities
    )


class _Heard(logging.LoggerAdapter[logging.Logger]):
    """A logger that keeps what it is told."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.getLogger(__name__), {})
        self.heard = heard

    def warning(self, message: object, *arguments: object, **options: object) -> None:  # type: ignore[override]
        self.heard.append(str(message))
