"""The entries of the preset strong at its whole budget: what the evaluation of this defence must not lose unnoticed."""

from __future__ import annotations

from itertools import groupby

from art_advtransform.attacks.strong import strong
from art_advtransform.smoothing import Blended, SoftplusModel
from art_advtransform.unrolled import Tanh

ENTRIES = {
    "0 transfer": [
        "APGD-CE-100 on f_a",
        "APGD-T-50 on f_a",
        "transfer: mean ce, PGD-100, 1 draw, momentum 0.9, on f_a",
        "transfer: mean ce, PGD-100, 1 draw, momentum 0.9, on f_b",
        "APGD-CE-100 on f_b",
        "transfer: mean ce, PGD-100, 1 draw, momentum 0.9, on surrogates",
        "transfer: VMI-FGSM-40 on surrogates",
        "APGD-CE-100 on the surrogate undefended",
        "APGD-CE-100 on the surrogate adversarial",
        "transfer: PGN-40, 10 neighbours, on surrogates",
        "BPDA-I: mean margin, PGD-200, 1 draw, momentum 0.9, on an independent copy",
    ],
    "1 expectation": [
        "BPDA-I: momentum PGD-400, EOT 1",
        "BPDA-I: mean margin, PGD-2000, 1 draw, momentum 0.9",
        "BPDA-I: APGD-CE-100, EOT 20",
        "BPDA-I: APGD-DLR-100, EOT 20",
        "BPDA-I: mean margin, PGD-200, 10 draws, momentum 0/0.9/0.99",
        "BPDA-I: mean targeted, PGD-70, 10 draws, momentum 0/0.9",
        "BPDA-I: APGD-T-100, EOT 20, 3 targets",
        "BPDA-I: mean margin, PGD-200, 40 draws",
    ],
    "2 surrogate": [
        "student of the mean prediction: 4 rounds of 24 points, 4 draws",
    ],
    "3 smoothed unrolling": [
        "I + 0.3 J, tanh 1 u: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.3 J, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.3 J, tanh 10 u: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.1 J, tanh 3 u, softplus: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.3 J, tanh 3 u, softplus: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 1.0 J, tanh 3 u, softplus: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.3 J, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5, N = 1",
        "I + 0.3 J, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5, N = 3",
        "I + 0.3 J, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5, N = 5",
        "I + 0.3 J of the last 1, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5",
        "I + 0.3 J of the last 3, tanh 3 u: mean margin, PGD-40, 4 draws, momentum 0.5",
    ],
    "4 steering": [
        "steering f_b to each class: PGD-20, 4 draws",
        "BPDA-I: mean margin, PGD-400, 4 draws, momentum 0.9",
    ],
    "5 evolution": [
        "evolution strategy: 20 steps, 100 pairs, sigma 1 eps",
        "evolution strategy: 20 steps, 100 pairs, sigma 0.5 eps",
        "evolution strategy: 4 steps, 1000 pairs, sigma 1 eps",
        "evolution strategy: 4 steps, 1000 pairs, sigma 0.5 eps",
    ],
    "6 black box": [
        "Square: 200 queries of 20 draws",
        "SPSA: 20 steps of 64 pairs",
        "GenAttack: 100 steps, population 10",
        "HopSkipJump: 8 steps of 50 to 200 queries, frozen draw",
    ],
}


def test_no_entry_is_lost_or_made_smaller() -> None:
    """Their names have their steps and draws."""
    entries = {stage: list(found) for stage, found in groupby(strong(), key=lambda attack: attack.stage)}
    assert {stage: [attack.name for attack in found] for stage, found in entries.items()} == ENTRIES


# weight of J, temperature of tanh, steps that are differentiated, softplus for ReLU, N
THROUGH_G = [
    (0.3, 1.0, None, False, None),
    (0.3, 1 / 3, None, False, None),
    (0.3, 1 / 10, None, False, None),
    (0.1, 1 / 3, None, True, None),
    (0.3, 1 / 3, None, True, None),
    (1.0, 1 / 3, None, True, None),
    (0.3, 1 / 3, None, False, 1),
    (0.3, 1 / 3, None, False, 3),
    (0.3, 1 / 3, None, False, 5),
    (0.3, 1 / 3, 1, False, None),
    (0.3, 1 / 3, 3, False, None),
]


def test_smoothed_entries_go_through_g_as_their_names_say() -> None:
    found = []
    for attack in strong():
        if attack.stage == "3 smoothed unrolling":
            blended = attack.view.gradient
            assert isinstance(blended, Blended)
            smooth = isinstance(blended.rule, SoftplusModel)
            tanh = blended.rule.rule if isinstance(blended.rule, SoftplusModel) else blended.rule
            assert isinstance(tanh, Tanh)
            assert tanh.normalize
            found.append((blended.weight, tanh.temperature, tanh.steps, smooth, attack.view.max_iter))
    assert found == THROUGH_G


def test_all_others_that_differentiate_take_g_for_the_identity() -> None:
    views = [attack.view for attack in strong() if attack.stage != "3 smoothed unrolling"]
    assert {(view.gradient, view.max_iter) for view in views} == {("identity", None)}
