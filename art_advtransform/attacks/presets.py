"""L5: which attacks a preset runs, in this order."""

from __future__ import annotations

from collections.abc import Callable

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import black_box_transfer, bpda_identity, bpda_unrolled, white_box_transfer
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.torchattacks_attacks import auto_pgd
from art_advtransform.unrolled import Softsign, Tanh


def _smoke() -> list[Attack]:
    return [white_box_transfer(10), bpda_identity(10, 4)]


def _quick() -> list[Attack]:
    return [
        white_box_transfer(40),
        black_box_transfer(40),
        bpda_identity(40, 10),
        auto_pgd(40, 10),
        momentum_pgd(400),
        # at temperature 1 both saturate: the loss gradients of f_b are far from 1; a share of their mean size does not
        bpda_unrolled(Tanh(1.0, normalize=True), "tanh", 20, 2),
        bpda_unrolled(Softsign(1.0, normalize=True), "soft sign", 20, 2),
        hop_skip_jump(),
        gen_attack(),
    ]


PRESETS: dict[str, Callable[[], list[Attack]]] = {"smoke": _smoke, "quick": _quick}


def preset_attacks(preset: str) -> list[Attack]:
    """The attacks of ``preset``.

    Raises:
        ValueError: if it is unknown (the message lists the known ones).
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    return PRESETS[preset]()
