"""L5: the preset "strong": the strongest attacks that there are on this defence, in stages, each on what the ones before left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.evolution import evolution_strategy
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.flatness import flat_transfer
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.steering import steered_pgd
from art_advtransform.attacks.student import student
from art_advtransform.attacks.torchattacks_attacks import (
    auto_pgd,
    auto_pgd_transfer,
    momentum_transfer,
    spsa,
    square,
)
from art_advtransform.config import check_positive
from art_advtransform.smoothing import Blended, SoftplusModel
from art_advtransform.unrolled import Tanh


def strong(budget: float = 1.0) -> list[Attack]:
    """All stages one after the other; ``budget`` multiplies steps, pairs and queries of every attack, down to a least number of
    steps without which it would be none.

    All entries continue: they see only images that are still right in more than a hundredth of the draws, and those of this
    package, and Square, begin at the strongest result so far. Within a stage the cheap come first, so that the dear have fewer
    images left.

    Raises:
        ValueError: if ``budget`` is not positive.
    """
    check_positive("budget", budget)
    return [
        replace(attack, stage=name)
        for name, attacks in STAGES.items()
        for attack in attacks(lambda n, least: max(round(n * budget), min(least, n)))
    ]


# So many steps at budget 1, and at least so many.
_Steps = Callable[[int, int], int]


def _transfer(steps: _Steps) -> list[Attack]:
    return [
        auto_pgd_transfer(steps(100, 10), "f_a"),
        auto_pgd_transfer(steps(50, 10), "f_a", targeted=True),
        # unlike APGD these go on where the net attacked is wrong already, as f_a without g is on most images
        expectation_pgd(steps(100, 10), 1, loss="ce", momenta=(0.9,), seen="f_a"),
        expectation_pgd(steps(100, 10), 1, loss="ce", momenta=(0.9,), seen="f_b"),
        auto_pgd_transfer(steps(100, 10), "f_b"),
        expectation_pgd(steps(100, 10), 1, loss="ce", momenta=(0.9,), seen="surrogates"),
        momentum_transfer(steps(40, 10), "surrogates", variance=True),
        *(auto_pgd_transfer(steps(100, 10), "surrogates", surrogate=name) for name in ("undefended", "adversarial")),
        flat_transfer(steps(40, 10), 10),
        expectation_pgd(steps(200, 20), 1, momenta=(0.9,), seen="twin"),
    ]


def _expectation(steps: _Steps) -> list[Attack]:
    return [
        replace(momentum_pgd(steps(400, 40)), continues=True),
        # of the margin, which is capped: where a draw is won already, it doesn't turn the others' direction
        expectation_pgd(steps(2000, 100), 1, momenta=(0.9,), eps_steps=(1 / 8, 1 / 40)),
        auto_pgd(steps(100, 10), 20, continues=True),
        auto_pgd(steps(100, 10), 20, "dlr", continues=True),
        expectation_pgd(steps(200, 20), 10, momenta=(0, 0.9, 0.99)),
        expectation_pgd(steps(70, 10), 10, loss="targeted", momenta=(0, 0.9)),
        auto_pgd(steps(100, 10), 20, "targeted", continues=True),
        expectation_pgd(steps(200, 20), 40),
    ]


def _surrogate(steps: _Steps) -> list[Attack]:
    return [student(nb_rounds=steps(4, 2))]


def _smoothed(steps: _Steps) -> list[Attack]:
    def through(rule: str, gradient: Blended, nb_steps: int | None = None) -> Attack:
        # thirteen steps lead from one side of the budget to the other
        return expectation_pgd(steps(40, 13), 4, gradient=gradient, rule=rule, nb_steps=nb_steps, momenta=(0.5,))

    def tanh(k: float) -> Tanh:
        return Tanh(1 / k, normalize=True)

    return [
        *(through(f"I + 0.3 J, tanh {k} u", Blended(tanh(k), 0.3)) for k in (1, 3, 10)),
        *(
            through(f"I + {weight} J, tanh 3 u, softplus", Blended(SoftplusModel(tanh(3)), weight))
            for weight in (0.1, 0.3, 1.0)
        ),
        *(through("I + 0.3 J, tanh 3 u", Blended(tanh(3), 0.3), nb_steps) for nb_steps in (1, 3, 5)),
        *(
            through(f"I + 0.3 J of the last {last}, tanh 3 u", Blended(Tanh(1 / 3, normalize=True, steps=last), 0.3))
            for last in (1, 3)
        ),
    ]


def _steering(steps: _Steps) -> list[Attack]:
    # what steers leaves the loss half of every step: where it has led, the loss alone is climbed
    return [steered_pgd(steps(20, 8), 4), expectation_pgd(steps(400, 40), 4, momenta=(0.9,))]


def _evolution(steps: _Steps) -> list[Attack]:
    return [
        *(evolution_strategy(steps(20, 8), steps(100, 20), sigma) for sigma in (1.0, 0.5)),
        *(evolution_strategy(steps(4, 3), steps(1000, 50), sigma) for sigma in (1.0, 0.5)),
    ]


def _black_box(steps: _Steps) -> list[Attack]:
    return [
        square(steps(200, 20), 20, continues=True),
        spsa(steps(20, 4), 64, continues=True),
        replace(gen_attack(steps(100, 10)), continues=True),
        replace(hop_skip_jump(steps(8, 2)), continues=True),
    ]


STAGES: Mapping[str, Callable[[_Steps], list[Attack]]] = {
    "0 transfer": _transfer,
    "1 expectation": _expectation,
    "2 surrogate": _surrogate,
    "3 smoothed unrolling": _smoothed,
    "4 steering": _steering,
    "5 evolution": _evolution,
    "6 black box": _black_box,
}
