"""L5: attacks of torchattacks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Target
from art_advtransform.randomness import global_seed


def auto_pgd(max_iter: int = 40, eot_samples: int = 10, loss: Literal["ce", "dlr"] = "ce") -> Attack:
    """APGD (Croce & Hein 2020, arXiv 2003.01690) along BPDA-I gradients with EOT.

    The averaging is the view's, on logits: APGD then compares losses of ``eot_samples`` draws with one another.
    """

    def run(target: Target) -> Tensor:
        import torchattacks

        view = target.view("identity", eot_samples)
        attack = torchattacks.APGD(
            view, eps=target.threat.eps, steps=max_iter, loss=loss, seed=target.global_seed % 2**31
        )
        with global_seed(target.global_seed):  # it reseeds the global generators
            attacked = attack(target.x, target.y)
        return torch.as_tensor(attacked)

    return Attack(f"BPDA-I: APGD-{loss.upper()}-{max_iter}, EOT {eot_samples}", run, "white box", "torchattacks")


def square(n_queries: int = 1000) -> Attack:
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) on single draws."""

    def run(target: Target) -> Tensor:
        import torchattacks

        attack = torchattacks.Square(
            target.view(), eps=target.threat.eps, n_queries=n_queries, seed=target.global_seed % 2**31
        )
        with global_seed(target.global_seed):
            attacked = attack(target.x, target.y)
        return torch.as_tensor(attacked)

    return Attack(f"Square: {n_queries} queries", run, "black box", "torchattacks")
