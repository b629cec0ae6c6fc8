"""Attacks that continue: they start from the strongest result so far, and only of the images that are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from art_advtransform import judging, runs
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.counting import SCORING, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.plan import Plan
from art_advtransform.pool import Strength
from tests.evaluations import darker, drifting, run, timeless
from tests.models import fake_attack
from tests.problems import linear_net

# the class is whether the image is brighter than 0.5
BRIGHT = DefendedModel(linear_net(torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([-2.0, 0.0])), None)
LEVELS = torch.tensor([0.52, 0.54, 0.56, 0.58, 0.59, 0.9, 0.95, 0.55])
IMAGES, LABELS = LEVELS.view(8, 1, 1, 1).repeat(1, 1, 2, 2), torch.zeros(8, dtype=torch.int64)


def down(name: str, by: float, seen: list[Target], *, continues: bool) -> Attack:
    def generate(target: Target, model: DefendedModel) -> Tensor:
        seen.append(target)
        return target.start() - by if continues else target.x - by

    return Attack(name, generate, continues=continues)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images are scored at a time, as it happens."""
    numbers: list[int] = []

    def spy(model: DefendedModel, x: Tensor, *rest: object) -> Tensor:
        numbers.append(len(x))
        return predictions(model, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(judging, "predictions", spy)
    return numbers


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    found: list[Target] = []
    monkeypatch.setitem(
        PRESETS,
        "mine",
        lambda: [down("first", 0.03, found, continues=False), down("second", 0.055, found, continues=True)],
    )
    return found


def test_it_starts_where_the_others_ended_and_takes_the_survivors(seen: list[Target]) -> None:
    result = run(BRIGHT, IMAGES, LABELS, chunk_size=8)
    assert result.attacks[0].per_image == [0, 1, 1, 1, 1, 1, 1, 1]
    assert result.attacks[1].per_image == [0, 0, 0, 0, 1, 1, 1, 0]
    assert result.worst.per_image == result.attacks[1].per_image
    second = seen[1]
    torch.testing.assert_close(second.x, IMAGES[1:])
    assert second.alive is not None
    assert second.best is not None
    assert second.alive.tolist() == [1.0] * 7
    # images that are right in every draw go on from where their lead is smallest
    torch.testing.assert_close(second.best, IMAGES[1:] - 0.03)
    assert result.attacks[1].max_distance == pytest.approx(0.085, abs=1e-6)


def test_where_none_survives_nothing_is_run(seen: list[Target]) -> None:
    result = run(BRIGHT, IMAGES[:1].repeat(3, 1, 1, 1), LABELS[:3])
    assert len(seen) == 1
    assert result.attacks[1].per_image == result.attacks[0].per_image == [0, 0, 0]
    assert result.attacks[1].forward == 0


def test_alone_it_is_an_attack_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Target] = []
    attack = replace(down("alone", 0.05, found, continues=True), continues=False)
    monkeypatch.setitem(PRESETS, "mine", lambda: [fake_attack("first", darker), attack])
    run(BRIGHT, IMAGES, LABELS, chunk_size=8)
    assert found[0].best is None
    assert len(found[0].x) == 8
    # from a random start of its own
    assert 0 < float((found[0].start() - IMAGES).abs().max()) <= 0.1
    torch.testing.assert_close(found[0].start(), found[0].start())


def test_what_is_left_alone_is_not_judged_again(seen: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    judged = spied(monkeypatch)
    # the last is wrong in every draw without an attack
    model, images, labels = drifting(BRIGHT.classifier), torch.cat([IMAGES, IMAGES[:1] - 0.4]), LABELS[[*range(8), 0]]
    with_spy = run(model, images, labels, chunk_size=9)
    assert judged == [9, 9, len(seen[1].x), 9]  # and the worst case
    assert judged[2] == 8
    # and the numbers are those of judging all of them
    monkeypatch.setattr(runs, "judged", lambda plan, attacked, first, pool, nb_draws: _all(plan, attacked, first))
    assert timeless(run(model, images, labels, chunk_size=9)) == timeless(with_spy)


def _all(plan: Plan, attacked: Tensor, first: int) -> tuple[Strength, Tensor]:
    numbers = list(range(first, first + len(attacked)))
    scoring = predictions(plan.defended, attacked, plan.nb_draws, plan.seed, SCORING, numbers)
    return judging._chosen_by(plan, attacked, numbers), scoring


@pytest.mark.parametrize("weaker", [lambda x: x + 0.01, lambda x: x], ids=["other", "same"])
def test_where_nothing_stronger_is_found_the_result_before_stays(
    weaker: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [fake_attack("darker", darker), Attack("weaker", lambda target, model: weaker(target.start()))]
    attacks[1] = replace(attacks[1], continues=True)
    monkeypatch.setitem(PRESETS, "mine", lambda: attacks)
    scored = spied(monkeypatch)
    result = run(BRIGHT, IMAGES, LABELS, chunk_size=8)
    assert result.attacks[0].per_image == result.attacks[1].per_image
    assert sum(scored) == 3 * 8  # clean images, the first attack's, and the worst case
    assert set(result.chosen) <= {"no attack", "darker"}


def test_another_beginning_is_another_result(
    seen: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(BRIGHT, IMAGES, LABELS, out=tmp_path)
    calls = len(seen)
    assert run(BRIGHT, IMAGES, LABELS, out=tmp_path) == first
    assert len(seen) == calls  # the pool is that of the stored chunks
    monkeypatch.setitem(
        PRESETS,
        "mine",
        lambda: [down("other", 0.05, seen, continues=False), down("second", 0.055, seen, continues=True)],
    )
    again = run(BRIGHT, IMAGES, LABELS, out=tmp_path)
    assert "beginning: computed again" in caplog.text
    assert timeless(again) == timeless(run(BRIGHT, IMAGES, LABELS))
