"""How attacked images are judged: by few draws whether they are worth more, by more which is stronger, by others what is won."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from art_advtransform import judging
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.config import ThreatModel
from art_advtransform.counting import CONFIRMATION, PRESELECTION, SCORING, SELECTION, predictions, shares_and_leads
from art_advtransform.defended import DefendedModel
from art_advtransform.plan import Plan
from art_advtransform.pool import Pool, Strength
from art_advtransform.store import Chunk, read_attacked
from tests.evaluations import darker, drifting, mean, run
from tests.models import fake_attack
from tests.problems import linear_net

# the class is whether the image is brighter than 0.5
BRIGHT = DefendedModel(linear_net(torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([-2.0, 0.0])), None)


def further(by: float) -> Attack:
    """Darker than the strongest so far."""
    return Attack("second", lambda target, model: target.start() - by, continues=True)


# ---- what is asked first, by few


@pytest.mark.parametrize(("by", "judged"), [(-0.27, False), (0.05, True)], ids=["weaker", "stronger"])
def test_what_is_no_stronger_by_a_few_draws_costs_no_more(
    by: float, judged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "mine", lambda: [fake_attack("darker", darker), further(by)])
    asked: list[tuple[int, int]] = []

    def spy(model: DefendedModel, x: Tensor, y: Tensor, nb_draws: int, *rest: Any) -> tuple[Tensor, Tensor]:
        asked.append((len(x), nb_draws))
        return shares_and_leads(model, x, y, nb_draws, *rest)

    monkeypatch.setattr(judging, "shares_and_leads", spy)
    images = torch.full((5, 1, 2, 2), 0.5)  # right in some draws, and in some not
    options: dict[str, Any] = {"threat": ThreatModel(0.3), "chunk_size": 5, "nb_selection_draws": 20, "out": tmp_path}
    result = run(drifting(BRIGHT.classifier), images, torch.zeros(5, dtype=torch.int64), **options)
    assert asked[:2] == [(5, 20), (5, 20)]  # the clean images and the first attack's
    assert asked[2] == (5, 5)
    assert ((5, 20) in asked[3:]) == judged
    # what was turned down stands for nothing: neither in the worst case nor in the files
    kept = torch.stack([read_attacked(tmp_path, "second", 5, i) for i in range(5)])
    torch.testing.assert_close(kept, images - (0.08 if judged else 0.03))
    assert mean(result.attacks[1]) == mean(result.worst) <= mean(result.attacks[0])


def test_what_is_wrong_wherever_the_one_before_is_costs_what_is_left_of_its_judging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Darker by a little: wrong in every draw in which the image before was, and in few more; no luck may turn it down."""
    attacks = [fake_attack("darker", darker), further(0.004)]
    monkeypatch.setitem(PRESETS, "mine", lambda: attacks)
    images = torch.linspace(0.48, 0.58, 40).view(40, 1, 1, 1).repeat(1, 1, 2, 2)
    labels = torch.zeros(40, dtype=torch.int64)
    run(drifting(BRIGHT.classifier), images, labels, chunk_size=40, nb_selection_draws=20, out=tmp_path)
    kept = torch.stack([read_attacked(tmp_path, "second", 40, i) for i in range(40)])
    first = torch.stack([read_attacked(tmp_path, "darker", 40, i) for i in range(40)])
    survives = predictions(drifting(BRIGHT.classifier), first, 100, 0, CONFIRMATION).eq(0).double().mean(1) > 0.05
    assert int(survives.sum()) > 20
    torch.testing.assert_close(kept[survives], first[survives] - 0.004)


def test_one_draw_more_does_not_turn_an_image_down_and_the_draws_have_chosen_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    plan = Plan(flicker(0.5), x, y, ThreatModel(0.1), 0, 10, 20, 100, 10, False, {}, None, None, 1)
    asked: list[tuple[int, int, int]] = []

    def shares(model: DefendedModel, x: Tensor, y: Tensor, nb_draws: int, seed: int, purpose: int, of: Any) -> Any:
        asked.append((nb_draws, seed, purpose))
        new = bool((x < 0.5).all())
        return (torch.tensor([0.0, 0.4, 0.6, 0.8]) if new else torch.full((4,), 0.4)).double(), torch.zeros(4)

    monkeypatch.setattr(judging, "shares_and_leads", shares)
    nothing = torch.zeros(4, dtype=torch.int64)
    strength = Strength(torch.zeros(4).double(), torch.zeros(4).double(), nothing.bool())
    pool = Pool(x, strength, nothing[:, None])
    kept = judging.promising(plan, fake_attack("one", darker), x - 0.01, 0, pool)
    assert kept[:, 0, 0, 0].tolist() == pytest.approx([0.49, 0.49, 0.49, 0.5])
    assert [(draws, purpose) for draws, _, purpose in asked] == [(5, PRESELECTION)] * 2
    # the image that an attack has put into the pool was asked in draws that are not those of the next
    judging.promising(plan, fake_attack("two", darker), x - 0.01, 0, pool)
    seeds = [seed for _, seed, _ in asked]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    assert PRESELECTION not in (SELECTION, SCORING, CONFIRMATION)


def test_what_is_confirmed_is_stronger_than_what_needed_no_confirmation() -> None:
    # right in one of 20 draws and, luckily, in 12 of 100 others; in two of the same 20 draws; in three of them
    confirmed, unconfirmed, worse = (
        Strength(*map(torch.tensor, ([share], [0.0], [sure])))
        for share, sure in ((0.12, True), (0.1, False), (0.15, False))
    )
    assert bool(confirmed.beats(unconfirmed))
    assert not bool(unconfirmed.beats(confirmed))
    assert bool(unconfirmed.beats(worse))
    assert not bool(worse.beats(unconfirmed))
    surer = confirmed._replace(share=torch.tensor([0.02]))
    assert bool(surer.beats(confirmed))
    assert not bool(confirmed.beats(confirmed))
    assert bool(confirmed._replace(lead=torch.tensor([0.1])).beats(confirmed))


# ---- what is confirmed by others


def flicker(share: float) -> DefendedModel:
    """Wrong in a given share of the draws, whatever the image."""
    # f_a(x + D): D of the first pixel is U(-0.2, 0.2), and the image is 0.5 there
    weight = torch.tensor([[0.0] * 4, [1.0, 0, 0, 0]])
    return drifting(linear_net(weight, torch.tensor([0.0, 0.4 * share - 0.7])))


def test_what_looks_won_is_confirmed_by_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # right in a tenth of the draws: of 5 draws none is right for most images, of 400 others about a tenth
    x, y = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    alive: list[Tensor] = []

    def look(target: Target, model: DefendedModel) -> Tensor:
        assert target.alive is not None
        alive.append(target.alive)
        return target.x

    monkeypatch.setitem(PRESETS, "mine", lambda: [Attack("look", look, continues=True)])
    run(flicker(0.9), x, y, chunk_size=40, nb_confirmation_draws=400)
    assert len(alive[0]) == 40  # none is given up
    confirmed = alive[0] < 0.35
    assert int(confirmed.sum()) > 30
    torch.testing.assert_close(alive[0][confirmed].mean(), torch.tensor(0.1).double(), atol=0.01, rtol=0)
    # and one that is won is
    alive.clear()
    run(flicker(1.0), x, y, chunk_size=40, nb_confirmation_draws=400)
    assert alive == []


def test_the_least_share_is_one_over_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # thirty images as good as one another, made by "attacks" that return constants: right in a fifth of the draws
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    plan = Plan(
        flicker(0.8), x, y, ThreatModel(0.1), 0, 10, 5, 400, 10, False, {}, None, None, 1
    )  # fmt: skip
    few = torch.linspace(0.4, 1.0, 30, dtype=torch.float64)
    no, scored = torch.zeros(1, dtype=torch.bool), torch.zeros(1, 10).long()
    candidates = [Chunk(x, share[None], torch.zeros(1), no, scored, 0, 0, 0.0) for share in few]
    found = judging.worst_of(plan, candidates, 0)
    # not the lucky 0.4
    assert float(found.share) == pytest.approx(0.2, abs=0.06)
    # nor is the same image confirmed for each that made it
    asked: list[int] = []
    original = judging._confirmed

    def spy(plan: Plan, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
        asked.append(len(images))
        return original(plan, images, indices)

    monkeypatch.setattr(judging, "_confirmed", spy)
    often = replace(plan, defended=flicker(0.3))
    assert float(judging.worst_of(often, candidates, 0).share) == pytest.approx(0.7, abs=0.06)
    assert sum(asked) == 1
    asked.clear()
    other = [replace(c, attacked=x + 1e-5 * k) for k, c in enumerate(candidates)]
    assert float(judging.worst_of(often, other, 0).share) == pytest.approx(0.7, abs=0.06)
    assert sum(asked) > 5
    monkeypatch.undo()
    exact = judging.worst_of(replace(plan, defended=BRIGHT), candidates, 0)
    assert float(exact.share) == pytest.approx(0.4)  # nothing to confirm where there are no draws


def test_what_is_stronger_only_by_more_draws_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice takes the first for stronger, on a few lucky draws; confirmed, the second is: its images are not lost."""
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    lucky, better = x - 0.01, x - 0.02
    chosen = {0.49: 0.4, 0.48: 0.6}  # share of the few draws in which each is right
    confirmed = {0.49: 0.7, 0.48: 0.4}

    def few(plan: Plan, images: Tensor, indices: list[int]) -> Strength:
        share = torch.tensor([chosen.get(round(float(image[0, 0, 0]), 2), 1.0) for image in images]).double()
        return Strength(share, torch.zeros_like(share), torch.zeros_like(share, dtype=torch.bool))

    def many(plan: Plan, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
        share = torch.tensor([confirmed[round(float(image[0, 0, 0]), 2)] for image in images]).double()
        return share, torch.zeros_like(share)

    monkeypatch.setattr(judging, "_chosen_by", few)
    monkeypatch.setattr(judging, "_confirmed", many)
    second = Attack("second", lambda target, model: better, continues=True)
    monkeypatch.setitem(PRESETS, "mine", lambda: [Attack("first", lambda target, model: lucky), second])
    result = run(flicker(0.5), x, y, chunk_size=1)
    assert result.chosen == ["second"]
    assert result.attacks[1].per_image == result.attacks[0].per_image  # its line tells what was stronger by the few
