"""L5: attacks of torchattacks, each on the view of the defended model that its entry names."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Kind, Target, View, settings
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import global_seed


def torchattacks_attack(
    name: str,
    method: str,
    view: View | None = None,
    *,
    kind: Kind = "white box",
    cost: int = 0,
    **options: Any,
) -> Attack:
    """Any untargeted attack of ``torchattacks``; it takes images in [0, 1].

    Args:
        name: of the entry.
        method: name of the class.
        view: how it sees the model; ``None``: f_a(g(.)), BPDA-I, one draw a call.
        kind: what the attacker knows.
        cost: evaluations that it spends on an image, at most.
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
        with global_seed(target.global_seed):  # it reseeds the global generators
            attacked = attack(target.x, target.y)
        return torch.as_tensor(attacked)

    return Attack(name, generate, kind, view, "torchattacks", method, cost)


def auto_pgd(max_iter: int = 40, eot_samples: int = 10, loss: Literal["ce", "dlr"] = "ce") -> Attack:
    """APGD (Croce & Hein 2020, arXiv 2003.01690) along BPDA-I gradients with EOT.

    The averaging is the view's, on logits: APGD then compares losses of ``eot_samples`` draws with one another.
    """
    name = f"BPDA-I: APGD-{loss.upper()}-{max_iter}, EOT {eot_samples}"
    cost = (max_iter + 2) * eot_samples
    return torchattacks_attack(name, "APGD", View(eot_samples=eot_samples), cost=cost, steps=max_iter, loss=loss)


def square(n_queries: int = 1000) -> Attack:
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) on single draws."""
    name = f"Square: {n_queries} queries"
    return torchattacks_attack(name, "Square", kind="black box", cost=n_queries + 2, n_queries=n_queries)
