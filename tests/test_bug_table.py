"""The table of the released attack's faults: what a row is called, and what it is compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.records import AttackResult
from benchmarks.released_attack import AGAIN, attacks, by_attack, called
from tests.evaluations import by_hand, measured


def test_rows_say_what_is_mended_or_what_alone_is_not() -> None:
    assert called(released_bpda().name) == "released BPDA as coded"
    assert called(released_bpda(["clip"]).name) == "only mended: clip"
    assert called(released_bpda([fault for fault in FAULTS if fault != "label"]).name) == "all mended but: label"
    assert called(released_bpda(list(FAULTS)).name) == "all mended"
    assert called("no attack") == "no attack"
    names = [called(attack.name) for attack in attacks()]
    assert len(set(names)) == len(names)
    assert {f"only mended: {fault}" for fault in FAULTS} < set(names)


def test_the_second_run_of_the_mended_attack_is_the_same_but_for_its_name() -> None:
    mended = released_bpda(list(FAULTS))
    assert AGAIN.name != mended.name
    assert (AGAIN.method, AGAIN.view, AGAIN.cost) == (mended.method, mended.view, mended.cost)


def test_every_attack_is_compared_with_the_mended_one_image_by_image() -> None:
    def line(name: str, *shares: float) -> AttackResult:
        return measured(name, sum(shares) / len(shares), per_image=list(shares))

    mended = line(released_bpda(list(FAULTS)).name, 0.2, 0.4, 0.1)
    coded = line(released_bpda().name, 0.5, 0.7, 0.4)  # on every image 30 points more
    made = by_hand()["plain"]
    evaluation = replace(
        made, clean=line("no attack", 1.0, 0.9, 0.8), attacks=[coded, mended], worst=replace(mended, name="worst")
    )
    rows = by_attack({"least_likely": evaluation, "most_likely": evaluation})
    assert [row["attack"] for row in rows] == ["no attack", "released BPDA as coded", "all mended", "worst"]
    for objective in ("least_likely", "most_likely"):
        assert rows[1][objective] == pytest.approx(100 * 1.6 / 3)
        ends = [rows[1][f"{objective}_more{end}"] for end in ("", "_low", "_high")]
        assert ends == pytest.approx([30, 30, 30])
        assert rows[2][f"{objective}_more"] == 0
