"""L5: attacks of ART, each on the view of the defended model that its entry names.

ART differentiates the model as it is, so that the backward rule and EOT are those of the view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack, Kind, Target, View, settings
from art_advtransform.backward import GradientEstimator
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.gradients import FiniteDifference
from art_advtransform.randomness import global_seed

# What tries until it succeeds, without a bound.
_ENDLESS = ("HopSkipJump",)


def art_attack(
    name: str,
    method: str,
    view: View | None = None,
    *,
    kind: Kind = "white box",
    cost: int = 0,
    continues: bool = False,
    **options: Any,
) -> Attack:
    """Any untargeted attack of ``art.attacks.evasion``.

    What a class draws from a generator of its own depends on no seed, as with ART's HopSkipJump, whose search for a step need not
    end, either, on a model that draws: give it ``View(frozen=True)``, or a ``cost``, at twice of which any attack is stopped
    and counts as failed; or take :func:`~art_advtransform.attacks.foolbox_attacks.hop_skip_jump`, which can be repeated.

    Args:
        name: of the entry.
        method: name of the class.
        view: how it sees the model; ``None``: f_a(g(.)), BPDA-I, one draw a call.
        kind: what the attacker knows.
        cost: evaluations that it spends on an image, at most.
        continues: only the images that others left; the toolkit's attack begins where it always does.
        options: of the class; a value that depends on the budget is a function of the threat model. eps and batch_size are those
            of the evaluation, where the class has them.

    Example:
        >>> step = lambda threat: threat.eps / 4
        >>> bim = art_attack("BIM-10", "BasicIterativeMethod", View(eot_samples=5), max_iter=10, eps_step=step)
        >>> bim.view.eot_samples
        5
    """
    view = View() if view is None else view

    def generate(target: Target, model: DefendedModel) -> Tensor:
        if method in _ENDLESS and model.randomized and not cost:
            raise ValueError(f"{method} need not end on a model that draws: give it View(frozen=True), or a cost")
        with stopped_after(model, 2 * cost * len(target.x)):
            return run_art(method, target, model, options)

    return Attack(name, generate, kind, view, "art", method, cost, continues)


@contextmanager
def stopped_after(model: DefendedModel, most: int) -> Iterator[None]:
    """A context in which ``model`` refuses to be evaluated more often, image by image and draw by draw; 0: as often as asked.

    Raises:
        RuntimeError: from the model, then.
    """
    before = model.queries.forward

    def check(*_: object) -> None:
        if most and model.queries.forward - before >= most:
            raise RuntimeError(f"stopped after {model.queries.forward - before} evaluations, twice what it should take")

    handle = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def run_art(method: str, target: Target, model: DefendedModel, options: Mapping[str, Any]) -> Tensor:
    """The attack of ART named ``method`` on ``model``, under ``target``'s budget and seed."""
    with current_device(target.x.device):
        return _run_art(method, target, model, options)


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """A context in which "gpu" is ``device``: ART takes the current one, and moves the nets there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _run_art(method: str, target: Target, model: DefendedModel, options: Mapping[str, Any]) -> Tensor:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    nb_classes = target.nb_classes
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(target.x.shape[1:]),
        nb_classes=nb_classes,
        clip_values=target.threat.clip_values,
        device_type="cpu" if target.x.device.type == "cpu" else "gpu",
    )
    attack_class = getattr(evasion, method)
    given = {"eps": target.threat.eps, "batch_size": len(target.x), "verbose": False}
    known = {name: value for name, value in given.items() if name in attack_class.attack_params}
    attack = attack_class(classifier, **(known | settings(options, target.threat)))
    with global_seed(target.global_seed):
        attacked = attack.generate(target.x.cpu().numpy(), np.eye(nb_classes, dtype=np.float32)[target.y.cpu().numpy()])
    return torch.from_numpy(attacked).to(target.x)


def eps_step(max_iter: int) -> Callable[[ThreatModel], float]:
    """Steps of 2.5 eps / max_iter, but at least eps / 10: what gets anywhere in the ball, and into its corners."""
    return lambda threat: max(2.5 * threat.eps / max_iter, threat.eps / 10)


def pgd(name: str, view: View, max_iter: int, *, kind: Kind = "white box") -> Attack:
    """ART's ProjectedGradientDescent from one random start."""
    # ART predicts twice more: before, and for the success that it logs
    cost = (max_iter + 2) * view.eot_samples if view.model == "defended" else 0
    return art_attack(
        name,
        "ProjectedGradientDescent",
        view,
        kind=kind,
        cost=cost,
        max_iter=max_iter,
        eps_step=eps_step(max_iter),
        num_random_init=1,
    )


def white_box_transfer(max_iter: int = 40) -> Attack:
    """WT: PGD on f_a alone, fed to f_a(g(.)) (section 4 of the paper)."""
    return pgd(f"white-box transfer: PGD-{max_iter} on f_a", View("f_a"), max_iter, kind="transfer")


def external_transfer(max_iter: int = 40) -> Attack:
    """PGD on f_b alone: whatever moves f_b's loss moves g."""
    return pgd(f"transfer from f_b: PGD-{max_iter} on f_b", View("f_b"), max_iter, kind="transfer")


def black_box_transfer(max_iter: int = 40, without: tuple[str, ...] = ()) -> Attack:
    """PGD on nets that the attacker trained for himself; with several, on their mean log-probabilities.

    Args:
        max_iter: steps.
        without: names of nets that he is not to have; the paper's were trained on clean data.
    """
    name = f"black-box transfer: PGD-{max_iter} on a surrogate" + (f", without {', '.join(without)}" if without else "")
    return pgd(name, View("surrogates", without=without), max_iter, kind="transfer")


def automatic_differentiation(max_iter: int = 20, eot_samples: int = 1) -> Attack:
    """AD: PGD along what automatic differentiation makes of g (section 3.3 of the paper): for a fixed D, the identity."""
    return pgd(f"AD: PGD-{max_iter}, EOT {eot_samples}", View(gradient="autodiff", eot_samples=eot_samples), max_iter)


def bpda_identity(max_iter: int = 40, eot_samples: int = 10) -> Attack:
    """BPDA-I with EOT (Athalye et al. 2018): PGD along the gradient of f_a at g(x), over draws of D.

    What is differentiated is the cross-entropy of the mean logits, as with everything that a toolkit differentiates; for the mean
    of the losses, or of their gradients, see :func:`~art_advtransform.attacks.expectation.expectation_pgd`.
    """
    return pgd(f"BPDA-I: PGD-{max_iter}, EOT {eot_samples}", View(eot_samples=eot_samples), max_iter)


def bpda_unrolled(gradient: GradientEstimator, name: str, max_iter: int = 20, eot_samples: int = 2) -> Attack:
    """BPDA through all steps of LL-PGD with a soft sign or tanh (section 4.1 of the paper), with EOT."""
    title = f"unrolled BPDA, {name}: PGD-{max_iter}, EOT {eot_samples}"
    return pgd(title, View(gradient=gradient, eot_samples=eot_samples), max_iter)


def small_n_transfer(
    gradient: GradientEstimator, nb_steps: int = 3, max_iter: int = 20, eot_samples: int = 2
) -> Attack:
    """Unrolled BPDA through a g of few steps, fed to the one of all steps.

    Behind that g is f_a itself; Table 5 of the paper has one that was trained for the few steps.
    """
    title = f"small-N transfer: N = {nb_steps}, unrolled BPDA, PGD-{max_iter}, EOT {eot_samples}"
    return pgd(title, View(gradient=gradient, eot_samples=eot_samples, max_iter=nb_steps), max_iter)


def finite_differences(max_iter: int = 10, nb_samples: int = 64) -> Attack:
    """PGD along finite differences of g (eq. 4) in ``nb_samples`` coordinates that are drawn for each gradient."""
    title = f"finite differences: PGD-{max_iter}, {nb_samples} coordinates"
    return pgd(title, View(gradient=FiniteDifference(nb_samples=nb_samples)), max_iter)


def reparameterized(max_iter: int = 20, eot_samples: int = 10) -> Attack:
    """PGD through a network h(x, D) that was trained to imitate g_D(x) (eq. 6)."""
    title = f"reparameterisation: PGD-{max_iter}, EOT {eot_samples}"
    return pgd(title, View(gradient="reparameterized", eot_samples=eot_samples), max_iter)
