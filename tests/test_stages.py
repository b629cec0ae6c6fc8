"""An evaluation in stages: fewer draws for single attacks, what each stage leaves, models to choose, a budget to scale."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from art_advtransform import judging, runs
from art_advtransform.attacks.base import Attack, Target, View, from_function
from art_advtransform.attacks.presets import preset_attacks
from art_advtransform.attacks.strong import STAGES
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import ADVERSARIAL, BARE, DEFENDED, FIXED, UNDEFENDED, Nets, evaluate_nets
from art_advtransform.recipes import DIGITS_THREAT
from art_advtransform.store import Chunk
from tests.evaluations import Coin, darker, drifting, mean, run, timeless
from tests.models import fake_attack
from tests.problems import linear_net

# the class is whether the image is brighter than 0.5
BRIGHT = DefendedModel(linear_net(torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([-2.0, 0.0])), None)
LEVELS = torch.tensor([0.52, 0.54, 0.56, 0.58, 0.59, 0.45, 0.95, 0.55])
IMAGES, LABELS = LEVELS.view(8, 1, 1, 1).repeat(1, 1, 2, 2), torch.zeros(8, dtype=torch.int64)


def by(amount: float, *, continues: bool = False, stage: str = "") -> Attack:
    attack = from_function(f"by {amount}", lambda x, y: x - amount)
    return replace(attack, continues=continues, stage=stage)


# ---- draws


def test_fewer_draws_score_attacks_and_all_of_them_the_worst_case() -> None:
    model, mine = drifting(Coin()), [fake_attack("darker", darker), by(0.05)]
    few, full = (run(model, preset=mine, nb_draws=40, nb_attack_draws=n) for n in (10, None))
    few, full = timeless(few), timeless(full)
    assert (few.clean, few.worst, few.chosen) == (full.clean, full.worst, full.chosen)
    for a, b in zip(few.attacks, full.attacks, strict=True):
        # the first draws of them
        assert {round(10 * share, 9) % 1 for share in a.per_image} == {0.0}
        assert a.per_image != b.per_image
        assert mean(a) == pytest.approx(mean(b), abs=0.25)


def test_the_worst_case_is_kept_and_goes_with_what_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"preset": [by(0.05)], "nb_attack_draws": 3, "out": tmp_path}
    first = run(**options)
    scored: list[int] = []
    original = judging.worst_of

    def spy(*given: Any) -> Chunk:
        scored.append(given[-1])
        return original(*given)

    monkeypatch.setattr(runs, "worst_of", spy)
    assert timeless(run(**options)) == timeless(first)
    assert scored == []
    run(**options | {"preset": [by(0.05), by(0.1)]})
    assert scored  # other images are worst
    scored.clear()
    monkeypatch.setattr(runs, "attack_code", lambda: "counted in another way")
    again = run(**options | {"preset": [by(0.05), by(0.1)]})
    assert scored
    assert len(again.chosen) == 10


def test_what_a_mended_attack_did_before_is_not_taken_for_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(preset=[by(0.05)], out=tmp_path)
    run(preset=[by(0.05)], out=tmp_path)
    assert caplog.text == ""
    monkeypatch.setattr(runs, "attack_code", lambda: "other")
    run(preset=[by(0.05)], out=tmp_path)
    assert "by-0-05-00000.safetensors is of another evaluation, attack, version" in caplog.text


def test_an_evaluation_with_other_draws_is_another(tmp_path: Path) -> None:
    run(preset=[by(0.05)], out=tmp_path)
    with pytest.raises(ValueError, match="nb_attack_draws: 12 there, 3 here"):
        run(preset=[by(0.05)], out=tmp_path, nb_attack_draws=3)
    with pytest.raises(ValueError, match="expected nb_attack_draws >= 1, got 0"):
        run(preset=[by(0.05)], nb_attack_draws=0)


# ---- what each attack leaves


def test_every_attack_tells_how_many_it_met_and_what_it_left() -> None:
    mine = [by(0.03, stage="a"), by(0.055, continues=True, stage="b"), by(0.01), by(0.081, continues=True)]
    result = run(BRIGHT, IMAGES, LABELS, preset=mine, chunk_size=8)
    # one of eight is wrong as it is
    assert [a.nb_attacked for a in result.attacks] == [8, 6, 8, 4]
    assert [a.remaining for a in result.attacks] == [6 / 8, 4 / 8, 4 / 8, 2 / 8]
    assert [a.stage for a in result.attacks] == ["a", "b", "", ""]
    assert (result.worst.remaining, result.worst.nb_attacked, result.clean.remaining) == (None, 0, None)
    assert mean(result.worst) == result.attacks[-1].remaining


def test_what_is_left_never_rises_but_for_draws() -> None:
    mine = [fake_attack(f"darker {k}", lambda target, k=k: target.x - 0.01 * k) for k in range(1, 6)]  # type: ignore[misc]
    result = run(preset=mine, nb_selection_draws=50, nb_draws=50)
    left = [a.remaining for a in result.attacks]
    assert all(a is not None and b is not None and b <= a + 0.05 for a, b in pairwise(left))
    assert left[-1] == pytest.approx(mean(result.worst), abs=0.06)  # which is chosen on more draws


# ---- the preset


def test_strong_has_its_stages_in_order_and_all_of_it_continues() -> None:
    attacks = preset_attacks("strong")
    assert list(dict.fromkeys(attack.stage for attack in attacks)) == list(STAGES)
    assert all(attack.continues for attack in attacks)
    # within a stage the cheap first
    expectation = [attack.cost for attack in attacks if attack.stage == "1 expectation"]
    assert all(a <= 1.1 * b for a, b in pairwise(expectation))


def test_the_budget_scales_what_attacks_cost() -> None:
    full, half = preset_attacks("strong"), preset_attacks("strong", 0.5)
    assert [a.stage for a in full] == [a.stage for a in half]
    # looks cost the same
    assert all(b.cost <= 0.75 * a.cost or a.cost <= 1300 for a, b in zip(full, half, strict=True))
    assert {a.name for a in full}.isdisjoint({b.name for b in half})


def test_the_least_budget_leaves_attacks_that_move() -> None:
    names = " ".join(attack.name for attack in preset_attacks("strong", 1e-6))
    steps = [int(n) for n in re.findall(r"(?:PGD|APGD-CE|APGD-DLR|APGD-T|FGSM|PGN)-(\d+)", names)]
    assert min(steps) == 8  # of steering, which makes them as large as they must be to cross the budget
    smoothed = " ".join(a.name for a in preset_attacks("strong", 1e-6) if a.stage == "3 smoothed unrolling")
    # of a quarter of the budget to a sixteenth: twice the budget
    assert {int(n) for n in re.findall(r"PGD-(\d+)", smoothed)} == {13}
    assert "2 rounds" in names


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_bad_budgets(bad: float) -> None:
    with pytest.raises(ValueError, match=f"expected budget > 0, got {bad}"):
        preset_attacks("strong", bad)


def test_only_strong_can_be_scaled() -> None:
    with pytest.raises(ValueError, match=r"expected budget 1 for preset 'quick', got 0.5: only strong can be scaled"):
        preset_attacks("quick", 0.5)
    assert [a.name for a in preset_attacks("quick", 1.0)] == [a.name for a in preset_attacks("quick")]


# ---- models


def test_models_to_choose_and_the_surrogates_of_each(tmp_path: Path) -> None:
    nets, data = Nets.load("digits"), load_dataset("digits", "test").sample(4)
    found = evaluate_nets(
        nets, data, DIGITS_THREAT, tmp_path, models=[BARE, UNDEFENDED], preset=[by(0.05)], nb_draws=2, nb_selection_draws=2
    )  # fmt: skip
    assert list(found) == [UNDEFENDED, BARE]
    assert not (tmp_path / "examples.safetensors").exists()
    # f_a is trained on g(x) alone
    assert found[BARE].settings["transform"] is None
    assert mean(found[BARE].clean) <= mean(found[UNDEFENDED].clean)
    with pytest.raises(
        ValueError, match="unknown model 'f_a'; known: undefended, adversarial, f_a without g, defended, def"
    ):
        evaluate_nets(nets, data, DIGITS_THREAT, tmp_path / "b", models=["f_a"])
    assert not (tmp_path / "b").exists()
    assert set(nets.surrogates(DEFENDED)) == set(nets.surrogates(FIXED)) == {"surrogate", UNDEFENDED, ADVERSARIAL}
    assert set(nets.surrogates(UNDEFENDED)) == {"surrogate", ADVERSARIAL}


def test_an_attack_that_fails_on_the_first_images_leaves_a_report(tmp_path: Path) -> None:
    nets, data = Nets.load("digits"), load_dataset("digits", "test").sample(8)

    def flaky(target: Target, model: DefendedModel) -> torch.Tensor:
        if torch.equal(target.x[0], data.x[0]):
            raise RuntimeError("no gradient")
        return target.x - 0.05

    found = evaluate_nets(
        nets, data, DIGITS_THREAT, tmp_path, models=[DEFENDED], preset=[Attack("flaky", flaky)], chunk_size=4,
        nb_draws=4, nb_selection_draws=2, nb_confirmation_draws=3,
    )[DEFENDED]  # fmt: skip
    assert found.chosen[:4] == ["no attack"] * 4
    assert set(found.chosen[4:]) <= {"no attack", "flaky"}
    assert (tmp_path / "examples.safetensors").exists()
    assert found.missing == ["flaky"]
    assert found.attacks[0].remaining is None


def test_a_twin_is_handed_to_the_attacks_and_into_the_record() -> None:
    seen: list[Target] = []

    def generate(target: Target, model: DefendedModel) -> torch.Tensor:
        seen.append(target)
        return target.x

    twin = Attack("twin", generate, "transfer", View("twin"))
    other = Coin()
    result = run(preset=[twin], twin=other)
    assert result.attacks[0].problem == ""
    assert seen[0].twin is other
    assert "twin" in result.settings["sha256"]
    assert run(preset=[twin]).attacks[0].problem == "not run: needs an independent copy of f_a"
    assert run(BRIGHT, preset=[twin], twin=other).attacks[0].problem == "not run: there is no transform to see through"
    with pytest.raises(TypeError, match=r"expected twin to be a torch.nn.Module, got str"):
        run(preset=[twin], twin="f_a")
