"""The catalogue: every attack keeps its promises, and takes an undefended net down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks import flatness
from art_advtransform.attacks.adaptive import average_start, momentum_pgd
from art_advtransform.attacks.art_attacks import (
    automatic_differentiation,
    black_box_transfer,
    bpda_identity,
    bpda_unrolled,
    external_transfer,
    finite_differences,
    reparameterized,
    small_n_transfer,
    white_box_transfer,
)
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.climbing import cross_entropy, expected_gradient
from art_advtransform.attacks.evolution import evolution_strategy
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.flatness import flat_gradient, flat_transfer
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.presets import PRESETS, preset_attacks
from art_advtransform.attacks.released import released_bpda
from art_advtransform.attacks.steering import steered_pgd
from art_advtransform.attacks.student import student
from art_advtransform.attacks.torchattacks_attacks import (
    auto_pgd,
    auto_pgd_transfer,
    momentum_transfer,
    spsa,
    square,
)
from art_advtransform.defended import DefendedModel
from art_advtransform.smoothing import Blended, SoftplusModel
from art_advtransform.unrolled import Softsign, Tanh
from tests.models import defended, digits_target, global_state_untouched, undefended

# the attacks of the presets with few steps
SMALL: dict[str, Callable[[], Attack]] = {
    "white-box transfer": lambda: white_box_transfer(4),
    "black-box transfer": lambda: black_box_transfer(4),
    "BPDA-I: PGD": lambda: bpda_identity(4, 2),
    "BPDA-I: APGD": lambda: auto_pgd(4, 2),
    "BPDA-I: APGD-T": lambda: auto_pgd(2, 2, "targeted"),
    "BPDA-I: momentum": lambda: momentum_pgd(6),
    "unrolled BPDA, tanh": lambda: bpda_unrolled(Tanh(1.0, normalize=True), "tanh", 2, 2),
    "unrolled BPDA, soft sign": lambda: bpda_unrolled(Softsign(1.0, normalize=True), "soft sign", 2, 2),
    "HopSkipJump": lambda: hop_skip_jump(1, 10, 20),
    "GenAttack": lambda: gen_attack(3, 4),
    "Square": lambda: square(10),
    "AD": lambda: automatic_differentiation(4, 2),
    "small-N transfer": lambda: small_n_transfer(Tanh(), 2, 2, 2),
    "finite differences": lambda: finite_differences(2, 4),
    "reparameterisation": lambda: reparameterized(4, 2),
    "average start": lambda: average_start(4, 3),
    "released BPDA": released_bpda,
    "transfer from f_b": lambda: external_transfer(4),
    "APGD-CE": lambda: auto_pgd_transfer(4, "f_a"),
    "APGD-T": lambda: auto_pgd_transfer(2, "surrogates", targeted=True),
    "transfer: MI-FGSM": lambda: momentum_transfer(4, "f_b"),
    "transfer: VMI-FGSM": lambda: momentum_transfer(2, "surrogates", variance=True),
    "transfer: PGN": lambda: flat_transfer(2, 2),
    "BPDA-I: mean margin": lambda: expectation_pgd(4, 2, momenta=(0, 0.9)),
    "BPDA-I: mean ce": lambda: expectation_pgd(4, 2, loss="ce", seen="twin"),
    "BPDA-I: mean targeted": lambda: expectation_pgd(4, 2, loss="targeted"),
    "I + ": lambda: expectation_pgd(2, 2, gradient=Blended(SoftplusModel(Tanh())), rule="I + 0.3 J", nb_steps=2),
    "transfer: mean": lambda: expectation_pgd(4, 2, seen="f_b"),
    "student": lambda: student(2, 4, 2, 1),
    "steering": lambda: steered_pgd(2, 2),
    "evolution strategy": lambda: evolution_strategy(2, 8),
    "SPSA": lambda: spsa(2, 4),
}
# their gradients, if any, are not those of the defended model
ON_NETS = ("APGD-CE", "APGD-T", "transfer: MI-FGSM", "transfer: VMI-FGSM", "transfer: PGN")
# "mean ce" is the one on the twin
TRANSFERS = ("white-box transfer", "black-box transfer", "average start", "transfer from f_b", "transfer: mean")
WITHOUT_QUERIES = (*TRANSFERS, "BPDA-I: mean ce", *ON_NETS)
# they ask the model, but differentiate nothing, or another net
SEARCHES = ("HopSkipJump", "GenAttack", "Square", "SPSA", "student")
WITHOUT_GRADIENTS = (*WITHOUT_QUERIES, *SEARCHES)
# it starts at the image and draws nothing
UNSEEDED = ("transfer: MI-FGSM",)
# HopSkipJump minimises the distance, and may end outside; so may the others, which know no budget or no range
UNBOUNDED = ("HopSkipJump", "average start", "released BPDA")

every_attack = pytest.mark.parametrize("name", SMALL)


def accuracy(model: DefendedModel, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        # in double: 4 of 40 is a tenth, which in single precision is a little more than 0.1
        return float((model.view().eval()(x).argmax(1) == y).double().mean())


def test_every_attack_of_the_presets_is_tested() -> None:
    names = [attack.name for preset in PRESETS for attack in preset_attacks(preset)]
    assert all(any(name.startswith(small) for small in SMALL) for name in names), names
    assert all(make().name.startswith(small) for small, make in SMALL.items())
    for preset in PRESETS:  # records and tables tell attacks apart by name
        attacks = [attack.name for attack in preset_attacks(preset)]
        assert len(attacks) == len(set(attacks))


def test_the_average_start_costs_its_draws() -> None:
    assert average_start(4, 3).cost == 3


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="unknown preset 'slow'; known: smoke, quick, paper, strong"):
        preset_attacks("slow")


# ---- what every attack promises


@every_attack
def test_attacks_return_images_that_differ_and_count_their_queries(name: str) -> None:
    target = digits_target(defended())
    with global_state_untouched():
        attacked = SMALL[name]().run(target)
    assert attacked.shape == target.x.shape
    projected = target.project(attacked.detach())
    assert float((projected - target.x).abs().max()) <= target.threat.eps + 1e-6
    assert float(projected.min()) >= 0
    assert float(projected.max()) <= 1
    assert not torch.equal(projected, target.x)
    assert (target.queries.forward == 0) == (name in WITHOUT_QUERIES)
    assert (target.queries.backward > 0) == (name not in WITHOUT_GRADIENTS)
    assert target.queries.forward <= SMALL[name]().cost * len(target.x)
    model = target.defended
    assert model.transform is not None
    assert all(p.grad is None for p in [*model.classifier.parameters(), *model.transform.parameters()])
    assert all(p.grad is None for net in target.surrogates.values() for p in net.parameters())


@every_attack
def test_attacks_follow_their_seed(name: str) -> None:
    attack, results = SMALL[name](), []
    for k, seed in enumerate((0, 0, 1)):
        torch.manual_seed(k)  # global state must not matter
        results.append(attack.run(digits_target(defended(), seed=seed)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (name in UNSEEDED)


@pytest.mark.parametrize("name", [name for name in SMALL if name not in UNBOUNDED])
def test_attacks_stay_within_the_budget_by_themselves(name: str) -> None:
    target = digits_target(defended())
    attacked = SMALL[name]().run(target).detach()
    assert float((attacked - target.project(attacked)).abs().max()) <= 1e-6


@every_attack
def test_attacks_do_not_see_the_defence_s_own_draws(name: str) -> None:
    model = defended()
    assert model.transform is not None
    before = model.transform.generator.get_state()
    SMALL[name]().run(digits_target(model))
    assert torch.equal(model.transform.generator.get_state(), before)
    assert model.queries.forward == 0  # nor count on the model that others use


# ---- positive controls

STRONG: dict[str, Callable[[], Attack]] = {
    "white-box transfer": lambda: white_box_transfer(20),
    "BPDA-I: PGD": lambda: bpda_identity(20, 1),
    "BPDA-I: APGD": lambda: auto_pgd(20, 1),
    "BPDA-I: APGD-T": lambda: auto_pgd(20, 1, "targeted"),
    "BPDA-I: momentum": lambda: momentum_pgd(40),
    "transfer: VMI-FGSM": lambda: momentum_transfer(20, "f_a", variance=True),
    "SPSA": lambda: spsa(20, 64),
}


@pytest.mark.parametrize("name", STRONG)
def test_an_undefended_net_falls(name: str) -> None:
    target = digits_target(undefended(), 40)
    assert accuracy(target.defended, target.x, target.y) >= 0.95
    attacked = target.project(STRONG[name]().run(target).detach())
    assert accuracy(target.defended, attacked, target.y) <= 0.1


def test_mi_fgsm_climbs_what_it_sees() -> None:
    # small steps from the image leave a digit or two more
    target = digits_target(undefended(), 40)
    attacked = target.project(momentum_transfer(20, "f_a").run(target).detach())
    assert accuracy(target.defended, attacked, target.y) <= 0.15


@pytest.mark.parametrize("make", [lambda: square(300), lambda: gen_attack(60, 8), lambda: hop_skip_jump(3, 50, 100)])
def test_black_box_attacks_succeed_where_there_is_no_defence(make: Callable[[], Attack]) -> None:
    target = digits_target(undefended(), 20)
    attacked = target.project(make().run(target).detach())
    assert accuracy(target.defended, attacked, target.y) <= accuracy(target.defended, target.x, target.y) - 0.3


def test_square_goes_on_from_the_strongest_result() -> None:
    target = digits_target(undefended(), 10)
    strongest = target.project(STRONG["BPDA-I: APGD"]().run(target).detach())
    assert accuracy(target.defended, strongest, target.y) <= 0.1
    going_on = replace(target, best=strongest, alive=torch.ones(10))
    # no square is better than the strongest corner; from stripes, two queries are nothing
    attacked = target.project(square(2, continues=True).run(going_on).detach())
    assert accuracy(target.defended, attacked, target.y) <= 0.1
    assert accuracy(target.defended, target.project(square(2).run(target).detach()), target.y) > 0.5


def test_black_box_transfer_attacks_the_surrogate() -> None:
    target = digits_target(undefended(), 40)
    attacked = black_box_transfer(20).run(target)
    surrogate = target.surrogates["surrogate"]
    assert accuracy(DefendedModel(surrogate, None), attacked, target.y) <= 0.1
    two: dict[str, nn.Module] = {"a": surrogate, "b": target.defended.classifier}
    both = Target(target.defended, target.x, target.y, target.threat, 0, two)
    attacked = black_box_transfer(20).run(both)
    assert all(accuracy(DefendedModel(net, None), attacked, target.y) <= 0.2 for net in two.values())


def test_pgn_follows_the_slope_at_neighbours_and_below_them() -> None:
    target = digits_target(undefended(), 3)
    model, x, y = target.defended, target.x, target.y
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            logits: Tensor = model(images)
            return logits

    found = flat_gradient(Watched(), x, y, 2, 0.3, 0.01, target.generator(0))
    expected = torch.zeros_like(x)
    for near, below in (seen[:2], seen[2:]):
        assert float((near - x).abs().max()) == pytest.approx(0.3, rel=0.1)
        slope = expected_gradient(model, near, cross_entropy, y, 1)
        size = slope.abs().mean((1, 2, 3), keepdim=True)
        torch.testing.assert_close(below, near - 0.01 * slope / size)
        expected += (slope + expected_gradient(model, below, cross_entropy, y, 1)) / 2
    torch.testing.assert_close(found, expected / 2)
    assert not torch.equal(seen[0], seen[2])


def test_pgn_looks_as_far_whatever_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Tensor, float, float]] = []

    def watched(model: nn.Module, x: Tensor, y: Tensor, nb: int, radius: float, below_by: float, *_: object) -> Tensor:
        given.append((x, radius, below_by))
        return torch.zeros_like(x)

    monkeypatch.setattr(flatness, "flat_gradient", watched)
    for max_iter in (1, 40):
        target = digits_target(undefended(), 3)
        target.best, target.alive = target.x + 0.01, torch.ones(3)
        flat_transfer(max_iter, 2).run(target)
        x, radius, below_by = given[0]
        torch.testing.assert_close(x, target.best)  # the strongest result so far
        assert (radius, below_by) == pytest.approx((3 * target.threat.eps, target.threat.eps / 10))
        given.clear()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"max_iter": 0}, "expected max_iter >= 1, got 0"),
        ({"nb_neighbours": 0}, "expected nb_neighbours >= 1, got 0"),
        ({"seen": "twin"}, "expected a net without g: f_a, f_b or surrogates, got twin"),
    ],
)
def test_bad_numbers_for_pgn(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flat_transfer(**numbers)


def test_pgn_takes_the_net_that_it_sees() -> None:
    target = digits_target(undefended(), 40)
    surrogate = DefendedModel(target.surrogates["surrogate"], None)
    # a digit's budget is large: neighbours within three of it are far away
    assert accuracy(surrogate, target.x, target.y) >= 0.9
    assert accuracy(surrogate, flat_transfer(10, 4).run(target), target.y) <= 0.5


def test_bpda_sees_more_than_transfer() -> None:
    # f_a alone is not what classifies: through g the same number of steps does more harm
    target = digits_target(defended(), 60)
    clean = accuracy(target.defended, target.x, target.y)
    through_g = accuracy(target.defended, bpda_identity(20, 4).run(target), target.y)
    alone = accuracy(target.defended, white_box_transfer(20).run(target), target.y)
    assert through_g <= alone - 0.1
    assert through_g <= clean - 0.4
