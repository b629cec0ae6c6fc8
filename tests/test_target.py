"""What an attack is given, and why one can't run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch

from art_advtransform.attacks import base
from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import black_box_transfer, bpda_unrolled
from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.foolbox_attacks import gen_attack, hop_skip_jump
from art_advtransform.attacks.torchattacks_attacks import auto_pgd, auto_pgd_transfer
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.unrolled import Tanh
from tests.models import defended, digits_target, undefended
from tests.problems import linear_net


def test_project() -> None:
    x = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.95, 1.0, 0.5]).view(1, 1, 1, 7)
    raw = torch.tensor([-3.0, 0.55, 0.7, float("nan"), 2.0, 0.95, -torch.inf]).view(1, 1, 1, 7)
    target = Target(undefended(), x, torch.zeros(1).long(), ThreatModel(0.1), 0)
    expected = torch.tensor([0.0, 0.55, 0.6, 0.5, 1.0, 0.95, 0.4]).view(1, 1, 1, 7)
    torch.testing.assert_close(target.project(raw), expected)
    assert target.project(raw.double()).dtype == torch.float32


def test_views_count_into_the_target_and_draw_anew_from_its_seed() -> None:
    target = digits_target(defended(), 4)
    with torch.no_grad():
        first, again = target.view()(target.x), target.view()(target.x)
        averaged = target.view(eot_samples=3)(target.x)
    assert torch.equal(first, again)
    assert not torch.equal(first, averaged)
    assert target.queries.forward == 4 + 4 + 12
    bare = target.bare()
    assert torch.equal(bare(target.x), target.defended.classifier(target.x))
    assert target.queries.forward == 20
    assert target.bare(target.surrogates["surrogate"]).classifier is target.surrogates["surrogate"]


@pytest.mark.parametrize(("make", "toolkit"), [(gen_attack, "foolbox"), (auto_pgd, "torchattacks")])
def test_missing_toolkit(make: Callable[[], Attack], toolkit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, target = make(), digits_target(undefended())
    assert attack.missing(target) is None
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == toolkit else importlib.util.find_spec(name))
    assert attack.missing(target) == f'needs {toolkit}: pip install "art-advtransform[{toolkit}]"'
    assert momentum_pgd().missing(target) is None


def test_attacks_that_need_something() -> None:
    unrolled, transfer = bpda_unrolled(Tanh(), "tanh"), black_box_transfer()
    assert unrolled.missing(digits_target(undefended())) == "there is no transform to see through"
    assert unrolled.missing(digits_target(defended())) is None
    assert transfer.missing(digits_target(undefended(), surrogate=False)) == "needs a surrogate net"
    assert transfer.missing(digits_target(undefended())) is None


def test_one_of_several_surrogates() -> None:
    nets = {name: linear_net(torch.full((2, 4), float(k))) for k, name in enumerate("ab", 1)}
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    target = Target(undefended(), x, torch.zeros(3).long(), ThreatModel(0.1), 0, nets)
    for name, net in nets.items():
        with target.seen(View("surrogates", surrogate=name)) as seen:
            torch.testing.assert_close(seen(x), net(x).log_softmax(1))
    absent = auto_pgd_transfer(2, "surrogates", surrogate="c")
    assert absent.missing(target) == "there is no g to transfer through: f_a itself is attacked"
    assert absent.missing(replace(digits_target(defended()), surrogates=nets)) == "needs a surrogate called c"
    assert auto_pgd_transfer(2, "surrogates", surrogate="a").missing(target) is None


def test_surrogates_that_are_left_out() -> None:
    nets = {name: linear_net(torch.full((2, 4), float(k))) for k, name in enumerate("ab", 1)}
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    target = Target(undefended(), x, torch.zeros(3).long(), ThreatModel(0.1), 0, nets)
    with target.seen(View("surrogates", without=("b",))) as seen:
        torch.testing.assert_close(seen(x), nets["a"](x).log_softmax(1))
    assert black_box_transfer(without=("b",)).missing(target) is None
    assert auto_pgd_transfer(2, "surrogates", surrogate="a").missing(target) is None
    neither = Attack("neither", black_box_transfer().generate, view=View("surrogates", surrogate="a", without=("a",)))
    assert neither.missing(target) == "needs a surrogate net other than a"
    alone = replace(target, surrogates={"b": nets["b"]})
    assert black_box_transfer(without=("b",)).missing(alone) == "needs a surrogate net other than b"


def test_what_freezes_d_needs_an_f_a_that_does_not_draw() -> None:
    target = digits_target(defended(), 2)
    assert hop_skip_jump().missing(target) is None
    setattr(target.defended.classifier, "randomized", True)  # noqa: B010
    assert hop_skip_jump().missing(target) == "needs a model that stays the same while it runs: f_a draws itself"
    assert momentum_pgd().missing(target) is None


def test_the_toolkits_global_state_is_not_the_stream_of_d() -> None:
    target = digits_target(defended(), 2)
    with global_seed(target.global_seed):
        noise = torch.rand(4)
    assert not torch.equal(noise, torch.rand(4, generator=target.generator()))
    seeds: list[int] = []

    def frozen(self: DefendedModel, seed: int) -> AbstractContextManager[None]:
        seeds.append(seed)
        return nullcontext()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefendedModel, "frozen", frozen)
        with target.seen(View(frozen=True)):
            pass
    (seed,) = seeds
    assert seed not in (derived_seed(target.seed), target.global_seed)


def test_momentum_goes_on_from_the_best() -> None:
    target = digits_target(undefended(), 4)
    best = target.project(target.x + target.threat.eps / 2)
    still = replace(target, threat=replace(target.threat, eps=1e-9), x=best, best=best, alive=torch.ones(4))
    attack = replace(momentum_pgd(1), continues=True)
    torch.testing.assert_close(attack.run(still), best, atol=1e-6, rtol=0)
    moved = attack.run(replace(target, best=best, alive=torch.ones(4)))
    assert float((moved - best).abs().max()) <= target.threat.eps / 8 + 1e-6
