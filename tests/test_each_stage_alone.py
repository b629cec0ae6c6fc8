"""The benchmark of single stages: as many steps as its cost pays for, and no start from what came before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from art_advtransform.attacks.strong import strong
from benchmarks.stages import scaled

LEAST, WHOLE = strong(1e-9), strong()


@pytest.mark.parametrize("index", range(len(WHOLE)), ids=[attack.name for attack in WHOLE])
def test_an_attack_spends_what_it_may_or_its_least(index: int) -> None:
    found = scaled(index, 300)
    assert found.stage == WHOLE[index].stage
    assert found.method == WHOLE[index].method
    assert not found.continues
    assert replace(found.view, gradient=WHOLE[index].view.gradient) == WHOLE[index].view  # rules are new objects
    if WHOLE[index].cost == 0:  # a transfer costs nothing, however many its steps
        assert found.name == WHOLE[index].name
    elif LEAST[index].cost > 320:  # some looks are cheaper where nothing continues
        assert found.name == LEAST[index].name
    else:
        assert 200 <= found.cost <= 300


def test_more_cost_buys_more_steps() -> None:
    index = next(i for i, attack in enumerate(WHOLE) if "momentum PGD" in attack.name)
    assert [scaled(index, cost).name for cost in (100, 900)] == [
        "BPDA-I: momentum PGD-100, EOT 1",
        "BPDA-I: momentum PGD-900, EOT 1",
    ]
