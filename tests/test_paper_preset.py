"""The preset "paper" is the paper's: its attacks, its numbers beside them; and by how many draws presets are counted."""

from __future__ import annotations

import inspect

from art_advtransform.attacks.presets import DRAWS, Draws, preset_attacks
from art_advtransform.evaluation import evaluate
from art_advtransform.unrolled import Softsign, Tanh, Unrolled

# in order, and the accuracy that Table 1 (f_b trained adversarially), Table 2 or appendix A.2 gives
ATTACKS = [
    ("AD: PGD-20, EOT 1", None),
    ("unrolled BPDA, soft sign and eq. 5: PGD-20, EOT 10", None),
    ("unrolled BPDA, tanh and eq. 5: PGD-20, EOT 10", None),
    ("small-N transfer: N = 3, unrolled BPDA, PGD-20, EOT 10", None),
    ("BPDA-I: PGD-20, EOT 500", 0.805),
    ("finite differences: PGD-10, 64 coordinates", None),
    ("reparameterisation: PGD-20, EOT 10", 0.811),
    ("white-box transfer: PGD-20 on f_a", None),
    ("average start: PGD-20 on f_a from E[g(x)] of 50 draws", None),
    ("black-box transfer: PGD-20 on a surrogate, without adversarial", 0.781),
    ("HopSkipJump: 20 steps of 100 to 1000 queries, frozen draw", 0.820),
    ("GenAttack: 500 steps, population 20", 0.819),
    ("released BPDA as coded", None),
]


def test_the_papers_attacks_and_what_it_says_of_them() -> None:
    assert [(attack.name, attack.published) for attack in preset_attacks("paper")] == ATTACKS


def test_no_other_preset_stands_beside_the_papers_numbers() -> None:
    others = [attack for preset in ("smoke", "quick", "strong") for attack in preset_attacks(preset)]
    assert {attack.published for attack in others} == {None}


def test_what_is_unrolled_is_projected_by_eq_5() -> None:
    rules = [a.view.gradient for a in preset_attacks("paper") if isinstance(a.view.gradient, Unrolled)]
    assert [type(rule) for rule in rules] == [Softsign, Tanh, Tanh]
    usual = {"temperature": 1.0, "normalize": False, "steps": None, "trajectory": "exact"}
    for rule in rules:
        settings = {name: getattr(rule, name) for name in (*usual, "projection")}
        assert settings == {**usual, "projection": "mask"}


def test_its_surrogates_were_trained_on_clean_data() -> None:
    left_out = {attack.name: attack.view.without for attack in preset_attacks("paper") if attack.view.without}
    assert left_out == {"black-box transfer: PGD-20 on a surrogate, without adversarial": ("adversarial",)}


def test_by_how_many_draws_presets_are_counted() -> None:
    counted = {
        "smoke": Draws(nb_draws=20, nb_selection_draws=10, nb_confirmation_draws=20, nb_attack_draws=20),
        "quick": Draws(nb_draws=30, nb_selection_draws=10, nb_confirmation_draws=20, nb_attack_draws=10),
        "paper": Draws(nb_draws=100, nb_selection_draws=20, nb_confirmation_draws=100, nb_attack_draws=100),
        "strong": Draws(nb_draws=100, nb_selection_draws=20, nb_confirmation_draws=100, nb_attack_draws=20),
    }
    assert counted == DRAWS


def test_twenty_draws_choose_and_a_hundred_score_unless_told_otherwise() -> None:
    usual = {name: parameter.default for name, parameter in inspect.signature(evaluate).parameters.items()}
    names = ("nb_selection_draws", "nb_draws", "nb_confirmation_draws", "nb_attack_draws")
    assert [usual[name] for name in names] == [20, 100, 100, None]
    assert (usual["preset"], usual["seed"], usual["fixed_draw"], usual["budget"]) == ("quick", 0, False, 1.0)
