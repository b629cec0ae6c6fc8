"""What an attack is given, and why one can't run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch

from art_advtransform.attacks import base
from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import black_box_transfer, bpda_unrolled
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.foolbox_attacks import gen_attack
from art_advtransform.attacks.torchattacks_attacks import auto_pgd
from art_advtransform.config import ThreatModel
from art_advtransform.unrolled import Tanh
from tests.models import defended, digits_target, undefended


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
