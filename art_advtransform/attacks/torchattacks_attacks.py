"""L5: attacks of torchattacks, each on the view of the defended model that its entry names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Kind, Seen, Target, View, settings
from art_advtransform.config import check_count
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import global_seed

_NB_TARGETS = 3  # of APGD-T through g
NB_TARGETS_WITHOUT_G = 9  # as in AutoAttack: all of ten classes, and not 199 of 200
_LEAST_CLASSES = 4  # that its loss, a ratio, needs


def torchattacks_attack(
    name: str,
    method: str,
    view: View | None = None,
    *,
    kind: Kind = "white box",
    cost: int = 0,
    continues: bool = False,
    how: Callable[[Any, Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> Attack:
    """Any untargeted attack of ``torchattacks``; it takes images in [0, 1].

    Args:
        name: of the entry.
        method: name of the class.
        view: how it sees the model; ``None``: f_a(g(.)), BPDA-I, one draw a call.
        kind: what the attacker knows.
        cost: evaluations that it spends on an image, at most.
        continues: only the images that others left; the toolkit's attack begins where it always does, unless ``how`` begins at
            ``attack.strongest``, the strongest result so far, or ``None``.
        how: what is called with (attack, images, labels); ``None``: the attack itself. Some stop at the first draw that is wrong,
            see :func:`highest_loss`.
        options: of the class; a value that depends on the budget is a function of the threat model. eps and seed are those of the
            evaluation, where the class has them.

    Example:
        >>> torchattacks_attack("MI-FGSM-10", "MIFGSM", View(eot_samples=5), steps=10, cost=50).toolkit
        'torchattacks'
    """
    view = View() if view is None else view

    def generate(target: Target, model: DefendedModel) -> Tensor:
        import torchattacks

        if target.threat.clip_values != (0.0, 1.0):
            raise ValueError(f"torchattacks takes images in [0, 1], got {target.threat.clip_values}")
        attack_class = getattr(torchattacks, method)
        given = {"eps": target.threat.eps, "seed": target.global_seed % 2**31, "n_classes": target.nb_classes}
        parameters = inspect.signature(attack_class).parameters
        known = {name: value for name, value in given.items() if name in parameters}
        attack = attack_class(model, **(known | settings(options, target.threat)))
        attack.strongest = target.best
        with global_seed(target.global_seed):  # it reseeds the global generators
            attacked = attack(target.x, target.y) if how is None else how(attack, target.x, target.y)
        return torch.as_tensor(attacked)

    return Attack(name, generate, kind, view, "torchattacks", method, cost, continues)


def highest_loss(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    """What APGD, or APGD-T over its target classes, finds of the highest loss; where nothing draws, of the images that are wrong.

    Called as usual they return the iterate of the first wrong draw, which for a randomised model is a lucky one, and the clean
    image where no draw was wrong, or where the net is wrong without an attack, from which nothing transfers.
    """
    best, highest = x.clone(), torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    lost = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    targets = range(2, attack.n_target_classes + 2) if hasattr(attack, "n_target_classes") else (None,)
    for target_class in targets:
        attack.target_class = target_class
        for _ in range(attack.n_restarts):
            found, was_right, loss, wrong = attack.attack_single_run(x, y)
            now_lost = lost
            if not attack.model.randomized:  # a class may change before the cross-entropy is highest
                with torch.no_grad():
                    right = attack.get_logits(found).argmax(1) == y
                only_before = right & ~was_right.bool()
                found = torch.where(only_before.view(-1, 1, 1, 1), wrong, found)
                now_lost = ~right | only_before
            # towards two classes losses do not compare: the higher may be of an image that is right, the lower of a wrong one
            better = (now_lost & ~lost) | ((now_lost == lost) & (loss > highest))
            lost = lost | now_lost
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            highest = torch.where(better, loss, highest)
    return best.detach()


def towards_likely(attack: Any, x: Tensor, y: Tensor, nb_targets: int) -> Tensor:
    """:func:`highest_loss` of APGD-T towards the ``nb_targets`` wrong classes that are most likely at ``x``; no more: all of them.

    Called as usual it takes the second and further classes of a ranking that is drawn anew for each of them: never the first, which
    is the one to take where the net is wrong already, and the label itself, where that is not first.
    """
    with torch.no_grad():
        logits = attack.get_logits(x)
    if logits.shape[1] < _LEAST_CLASSES:
        raise ValueError(f"expected at least {_LEAST_CLASSES} classes, got {logits.shape[1]}")
    ranking = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    attack.n_target_classes = min(ranking.shape[1] - 1, nb_targets)
    measured = attack.dlr_loss_targeted

    def ranked(logits: Tensor, labels: Tensor, _: Tensor) -> Any:
        return measured(logits, labels, ranking[:, attack.target_class - 2])  # it counts from the second

    attack.dlr_loss_targeted = ranked
    return highest_loss(attack, x, y)


def all_queries(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    """What Square finds of the lowest margin when it goes on after a query that is wrong, which may have been a lucky draw.

    It begins at the strongest result so far, where there is one, instead of at stripes.
    """
    measured = attack.margin_and_loss

    def unending(x_new: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        _, loss = measured(x_new, labels)
        return torch.ones_like(loss), loss

    def begin(shape: Any) -> Tensor:  # it asks for the signs of its stripes, and adds eps times these
        attack.random_choice = signs
        return torch.as_tensor((attack.strongest - x) / attack.eps)

    signs = attack.random_choice
    if attack.strongest is not None:
        attack.random_choice = begin
    attack.margin_and_loss = unending
    attack.init_hyperparam(x)
    _, best = attack.attack_single_run(x, y)
    return torch.as_tensor(best)


def auto_pgd(
    max_iter: int = 40,
    eot_samples: int = 10,
    loss: Literal["ce", "dlr", "targeted"] = "ce",
    *,
    continues: bool = False,
    nb_targets: int = _NB_TARGETS,
) -> Attack:
    """APGD (Croce & Hein 2020, arXiv 2003.01690) along BPDA-I gradients with EOT.

    The averaging is the view's, on logits: APGD then compares losses of ``eot_samples`` draws with one another. "targeted" is
    APGD-T towards each of the ``nb_targets`` wrong classes that are most likely in turn, which costs as much as so many.
    """
    check_count("nb_targets", nb_targets)
    targeted = loss == "targeted"
    name = f"BPDA-I: APGD-{'T' if targeted else loss.upper()}-{max_iter}, EOT {eot_samples}"
    name += f", {nb_targets} targets" if targeted else ""
    cost = eot_samples * (nb_targets * (max_iter + 3) + 1 if targeted else max_iter + 2)
    options: dict[str, Any] = {} if targeted else {"loss": loss}
    return torchattacks_attack(
        name,
        "APGDT" if targeted else "APGD",
        View(eot_samples=eot_samples),
        cost=cost,
        continues=continues,
        how=partial(towards_likely, nb_targets=nb_targets) if targeted else highest_loss,
        steps=max_iter,
        **options,
    )


def square(n_queries: int = 1000, eot_samples: int = 1, *, continues: bool = False) -> Attack:
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049); every query is the mean logits of ``eot_samples`` draws."""
    name = f"Square: {n_queries} queries" + (f" of {eot_samples} draws" if eot_samples > 1 else "")
    cost = (n_queries + 2) * eot_samples
    view = View(eot_samples=eot_samples)
    return torchattacks_attack(
        name,
        "Square",
        view,
        kind="black box",
        cost=cost,
        continues=continues,
        how=all_queries,
        n_queries=n_queries,
    )


def spsa(max_iter: int = 20, nb_samples: int = 64, *, continues: bool = False) -> Attack:
    """SPSA (Uesato et al. 2018, arXiv 1802.05666): Adam along slopes in random directions of signs, each of fresh draws."""
    return torchattacks_attack(
        f"SPSA: {max_iter} steps of {nb_samples} pairs",
        "SPSA",
        kind="black box",
        cost=2 * max_iter * nb_samples,
        continues=continues,
        nb_iter=max_iter,
        nb_sample=nb_samples,
        delta=lambda threat: threat.eps / 4,
        lr=lambda threat: threat.eps / 4,
    )


def momentum_transfer(max_iter: int, seen: Seen, *, variance: bool = False) -> Attack:
    """MI-FGSM (Dong et al. 2018, arXiv 1710.06081), or with ``variance`` VMI-FGSM (Wang & He 2021), on another net than the model.

    Unlike APGD they go on where the net attacked is wrong already, as f_a without g is on most images.
    """
    method = "VMIFGSM" if variance else "MIFGSM"
    return torchattacks_attack(
        f"transfer: {'VMI' if variance else 'MI'}-FGSM-{max_iter} on {seen}",
        method,
        View(seen),
        kind="transfer",
        continues=True,
        steps=max_iter,
        alpha=lambda threat: threat.eps / 8,
    )


def auto_pgd_transfer(max_iter: int, seen: Seen, *, targeted: bool = False, surrogate: str | None = None) -> Attack:
    """APGD-CE or APGD-T (Croce & Hein 2020, arXiv 2003.01690) on a net without g: where there is no defence, the attack on it.

    APGD-T goes towards each of the nine wrong classes that are most likely in turn, as in AutoAttack.

    ``surrogate``: of ``seen`` surrogates that of this name alone.
    """
    on = f"the surrogate {surrogate}" if surrogate else seen
    name = f"{'APGD-T' if targeted else 'APGD-CE'}-{max_iter} on {on}"
    options: dict[str, Any] = {} if targeted else {"loss": "ce"}
    return torchattacks_attack(
        name,
        "APGDT" if targeted else "APGD",
        View(seen, surrogate=surrogate),
        kind="transfer",
        continues=True,
        how=partial(towards_likely, nb_targets=NB_TARGETS_WITHOUT_G) if targeted else highest_loss,
        steps=max_iter,
        **options,
    )
