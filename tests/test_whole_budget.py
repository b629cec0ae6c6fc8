"""The whole budget after a tenth of it."""

from __future__ import annotations

from itertools import groupby

from art_advtransform.attacks.strong import STAGES
from art_advtransform.store import slug
from benchmarks.whole_budget import attacks


def test_every_stage_runs_at_a_tenth_and_then_in_full_on_what_is_left() -> None:
    tried = attacks()
    half = len(tried) // 2
    names = [stage for stage, _ in groupby(tried, key=lambda attack: attack.stage)]
    assert names == [f"{stage}, {called}" for called in ("a tenth", "whole") for stage in STAGES]
    assert all(attack.continues for attack in tried)
    # those of the whole budget are others, which cost more, and have files of their own
    assert len({slug(attack.name) for attack in tried}) == len(tried)
    for part, whole in zip(tried[:half], tried[half:], strict=True):
        assert (part.method, part.view.model) == (whole.method, whole.view.model)
        assert part.cost < whole.cost or part.cost == 0
