"""L5: which attacks a preset runs, in this order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from art_advtransform.attacks.adaptive import average_start, momentum_pgd
from art_advtransform.attacks.art_attacks import (
    automatic_differentiation,
    black_box_transfer,
    bpda_identity,
    bpda_unrolled,
    finite_differences,
    reparameterized,
    small_n_transfer,
    white_box_transfer,
)
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.released import released_bpda
from art_advtransform.attacks.strong import strong
from art_advtransform.attacks.torchattacks_attacks import auto_pgd
from art_advtransform.unrolled import Softsign, Tanh


def _smoke() -> list[Attack]:
    return [white_box_transfer(10), bpda_identity(10, 4)]


def _quick() -> list[Attack]:
    """One of a kind, cheap enough for 200 CIFAR-10 images on two cores in half an hour, most of which g takes."""
    return [
        white_box_transfer(40),
        black_box_transfer(40),
        auto_pgd(20, 4),
        momentum_pgd(100),
        # at temperature 1 it saturates: the loss gradients of f_b are far from 1; a share of their mean size does not
        bpda_unrolled(Tanh(1.0, normalize=True), "tanh", 10, 1),
        gen_attack(6, 4),
    ]


def _paper() -> list[Attack]:
    """Sections 3.3 and 4 of the paper, and the attack that its code runs.

    BPDA-I has 500 draws, which the paper takes wherever it averages over some; here the unrolled and the reparameterised have ten.
    """
    return [
        automatic_differentiation(20),
        bpda_unrolled(Softsign(projection="mask"), "soft sign and eq. 5", 20, 10),
        bpda_unrolled(Tanh(projection="mask"), "tanh and eq. 5", 20, 10),
        small_n_transfer(Tanh(projection="mask"), 3, 20, 10),
        replace(bpda_identity(20, 500), published=0.805),  # Table 1, f_b trained adversarially
        finite_differences(10, 64),
        replace(reparameterized(20, 10), published=0.811),  # appendix A.2
        white_box_transfer(20),  # Fig. 6 alone, without numbers
        average_start(20, 50),
        # Table 2, as the next two; the worst in Table 3; its surrogates were trained on clean data
        replace(black_box_transfer(20, without=("adversarial",)), published=0.781),
        replace(hop_skip_jump(20, 100, 1000), published=0.820),
        replace(gen_attack(500, 20), published=0.819),
        released_bpda(),
    ]


@dataclass(frozen=True)
class Draws:
    """How many draws of D a preset is counted by; arguments of :func:`~art_advtransform.evaluation.evaluate`."""

    nb_draws: int
    nb_selection_draws: int
    nb_confirmation_draws: int
    nb_attack_draws: int


DRAWS = {
    "smoke": Draws(20, 10, 20, 20),
    "quick": Draws(30, 10, 20, 10),
    "paper": Draws(100, 20, 100, 100),
    "strong": Draws(100, 20, 100, 20),
}
PRESETS: dict[str, Callable[[], list[Attack]]] = {"smoke": _smoke, "quick": _quick, "paper": _paper, "strong": strong}


def preset_attacks(preset: str | Sequence[Attack], budget: float = 1.0) -> list[Attack]:
    """The attacks of ``preset``, or those given; ``budget`` multiplies the steps of "strong", and of it alone.

    Raises:
        ValueError: if it is unknown (the message lists the known ones), or there is no budget to scale.
        TypeError: if something given is no attack.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        if budget != 1.0 and preset != "strong":
            raise ValueError(f"expected budget 1 for preset {preset!r}, got {budget}: only strong can be scaled")
        return strong(budget) if budget != 1.0 else PRESETS[preset]()
    if budget != 1.0:
        raise ValueError(
            f"expected budget 1 for attacks of your own, got {budget}: only the preset strong can be scaled"
        )
    attacks = list(preset)
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise TypeError(f"expected attacks as Attack entries, got {type(attack).__name__}")
    return attacks
