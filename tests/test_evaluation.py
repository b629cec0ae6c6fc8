"""Evaluate: known answers, killed runs that go on, and what results depend on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from art_advtransform.attacks.base import Target
from art_advtransform.config import ThreatModel
from art_advtransform.defended import DefendedModel
from art_advtransform.records import AttackResult, Evaluation, environment
from tests.evaluations import Coin, Run, X, Y, darker, drifting, mean, run, set_preset, step, timeless
from tests.models import defended, digits_target, undefended
from tests.problems import images, linear_net


def by_name(result: Evaluation) -> dict[str, AttackResult]:
    return {a.name: a for a in (result.clean, *result.attacks)}


# ---- known answers


def flip(*numbers: int) -> Run:
    """Moves the images of these numbers, which their first pixel tells, across the border."""

    def moved(target: Target) -> Tensor:
        attacked = target.x.clone()
        for image in attacked:
            if round(float(image[0, 0, 0]) * 20) in numbers:
                pixels = image.flatten()[1:]
                image.flatten()[1:] = pixels - 0.1 * torch.sign(pixels - 0.5)
        return attacked

    return moved


@pytest.mark.parametrize("behind_g", [False, True])
def test_known_answer(behind_g: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # the class is whether three pixels are bright; the first pixel is the image's number; the last label is wrong
    y = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    x = torch.where(y == 0, 0.55, 0.45).view(8, 1, 1, 1).repeat(1, 1, 2, 2)
    x[:, 0, 0, 0] = torch.arange(8) / 20
    y[7] = 0
    f_a = linear_net(torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0] * 4]), torch.tensor([-1.5, 0.0]))
    set_preset(monkeypatch, first=flip(0, 1, 2, 7), second=flip(2, 3, 7))
    result = run(drifting(f_a, 0.01) if behind_g else DefendedModel(f_a, None), x, y, chunk_size=3)
    assert result.clean.per_image == [1, 1, 1, 1, 1, 1, 1, 0]
    assert [a.per_image for a in result.attacks] == [[0, 0, 0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 1]]
    assert result.worst.per_image == [0, 0, 0, 0, 1, 1, 1, 0]
    assert result.chosen == ["first"] * 3 + ["second"] + ["no attack"] * 4
    assert [mean(r) for r in (result.clean, *result.attacks, result.worst)] == [7 / 8, 5 / 8, 6 / 8, 3 / 8]
    for r in (result.clean, *result.attacks, result.worst):
        assert r.mean == r.majority == r.any  # the draws agree
    assert [a.max_distance for a in result.attacks] == pytest.approx([0.1, 0.1])
    assert (result.clean.max_distance, result.clean.forward, result.clean.backward) == (0, 0, 0)
    assert (result.settings["nb_images"], result.settings["transform"] is None) == (8, not behind_g)


def shift(by: float) -> Run:
    return lambda target: target.x + by


def test_the_worst_case_is_not_scored_on_the_draws_that_chose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever is done to a coin, it stays one; the least of seven scores over 10 draws would be near 0.29
    x, y = images(80, (1, 2, 2), dtype=torch.float32) * 0.8 + 0.1, torch.arange(80) % 2
    set_preset(monkeypatch, **{f"shift {k}": shift(k / 90) for k in range(1, 7)})
    result = run(x=x, y=y, nb_draws=10, nb_selection_draws=10, chunk_size=40)
    assert len(set(result.chosen)) == 7
    assert 0.45 < mean(result.worst) < 0.55
    named = by_name(result)
    assert result.worst.per_image == [named[name].per_image[i] for i, name in enumerate(result.chosen)]


@pytest.mark.parametrize("make", [undefended, defended])
def test_the_worst_case_is_no_better_than_any_attack(make: Callable[[], DefendedModel]) -> None:
    target = digits_target(make(), 20)
    result = run(target.defended, target.x, target.y, preset="smoke", threat=target.threat, nb_selection_draws=20)
    worst, means = mean(result.worst), [mean(r) for r in (result.clean, *result.attacks)]
    # the choice by other draws may be slightly wrong where there are draws
    assert worst <= min(means) + (0.0 if target.defended.transform is None else 0.02)
    assert min(means[1:]) < means[0] - 0.3
    assert all(0.5 * target.threat.eps < a.max_distance <= target.threat.eps + 1e-6 for a in result.attacks)


# ---- killed runs


class Calls(list[Tensor]):
    """Images of all calls; the ``stop_at``-th is where the user stops the run."""

    stop_at = 0


def counted(calls: Calls, attack: Run) -> Run:
    """``attack``, whose images are kept."""

    def wrapped(target: Target) -> Tensor:
        calls.append(target.x.clone())
        if len(calls) == calls.stop_at:
            raise KeyboardInterrupt
        return attack(target)

    return wrapped


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_a_killed_run_goes_on_where_it_was(stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    set_preset(monkeypatch, a=counted(calls, step), b=counted(calls, darker))
    whole = run(out=tmp_path / "whole")
    assert [len(x) for x in calls] == [4, 4, 2] * 2
    assert (whole.attacks[0].forward, whole.attacks[0].backward) == (2, 2)
    calls.clear()
    calls.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "killed")
    assert not (tmp_path / "killed" / "evaluation.json").exists()
    calls.clear()
    calls.stop_at = 0
    again = run(out=tmp_path / "killed")
    assert len(calls) == 6 - (stop_at - 1)
    assert torch.equal(calls[-1], X[8:])
    assert timeless(again) == timeless(whole)
    assert again.path == tmp_path / "killed" / "evaluation.json"
    loaded = Evaluation.load(again.path)
    assert replace(loaded, settings={}) == replace(again, settings={})


def test_what_is_finished_is_not_attacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    set_preset(monkeypatch, a=counted(calls, step), b=darker)
    first = run(out=tmp_path)
    assert run(out=tmp_path) == first  # with the seconds of the first run
    assert len(calls) == 3
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "chunks" / "a-00004.safetensors").unlink()
    assert timeless(run(out=tmp_path)) == timeless(first)
    assert len(calls) == 4
    assert torch.equal(calls[3], X[4:8])
    assert timeless(run()) == timeless(first)  # nor does it matter whether anything is kept
    assert len(calls) == 7


def other_weights() -> DefendedModel:
    model = drifting(Coin())
    with torch.no_grad():
        next(model.classifier.parameters()).add_(1.0)
    return model


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "seed": lambda: {"seed": 1},
    "budget": lambda: {"threat": ThreatModel(eps=0.05)},
    "draws": lambda: {"nb_draws": 13},
    "selection draws": lambda: {"nb_selection_draws": 6},
    "chunks": lambda: {"chunk_size": 5},
    "weights": lambda: {"model": other_weights()},
    "g": lambda: {"model": drifting(Coin(), 0.1)},
    "images": lambda: {"x": X.flip(0)},
    "labels": lambda: {"y": 1 - Y},
}


WHAT_DIFFERS = {
    "seed": "seed: 0 there, 1 here",
    "budget": "threat: .*0.1.* there, .*0.05.* here",
    "draws": "nb_draws: 12 there, 13 here",
    "selection draws": "nb_selection_draws: 5 there, 6 here",
    "chunks": "chunk_size: 4 there, 5 here",
    "weights": "other f_a",
    "g": "transform: ",
    "images": "other images",
    "labels": "other labels",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_is_that_of_one_evaluation(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    set_preset(monkeypatch, a=counted(calls, step))
    before = run(out=tmp_path)
    calls.clear()
    with pytest.raises(ValueError, match=f"holds another evaluation .*{WHAT_DIFFERS[name]}.*: expected another folder"):
        run(out=tmp_path, **OTHERS[name]())
    assert calls == []
    assert timeless(run(out=tmp_path)) == timeless(before)
    after = run(out=tmp_path, restart=True, **OTHERS[name]())
    assert len(calls) == len(range(0, 10, after.settings["chunk_size"]))
    assert after.settings["fingerprint"] != before.settings["fingerprint"]
    assert timeless(after) == timeless(run(**OTHERS[name]()))


@pytest.mark.parametrize("what", ["versions", "device", "python"])
def test_a_folder_is_that_of_one_environment(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=step)
    run(out=tmp_path)
    here = environment(X.device)
    monkeypatch.setattr("art_advtransform.evaluation.environment", lambda device: {**here, what: "another"})
    with pytest.raises(ValueError, match=f"holds another evaluation .*{what}"):
        run(out=tmp_path)


def test_another_preset_takes_over_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    set_preset(monkeypatch, a=counted(calls, step))
    alone = run(out=tmp_path)
    set_preset(monkeypatch, b=counted(calls, darker), a=counted(calls, step))
    both = run(out=tmp_path)
    assert len(calls) == 6  # an attack draws the same whatever else is in the preset
    # but what is left after it
    assert replace(both.attacks[1], remaining=None) == replace(alone.attacks[0], remaining=None)


def test_a_damaged_chunk_is_found_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_preset(monkeypatch, a=step)
    first = run(out=tmp_path)
    path = tmp_path / "chunks" / "a-00004.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert timeless(run(out=tmp_path)) == timeless(first)
    assert re.search(r"a-00004\.safetensors is damaged .*: computed again", caplog.text)
    path.rename(path.with_name("a-00008.safetensors"))
    (tmp_path / "manifest.json").write_text("{")
    assert timeless(run(out=tmp_path)) == timeless(first)
    assert re.search(r"manifest\.json is damaged .*: written again", caplog.text)


def test_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=step)
    result = run(out=tmp_path, about={"command": "evaluate this"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (sitting,) = manifest.pop("sittings")
    assert sitting.pop("started").startswith("20")
    assert {**manifest, **sitting} == result.settings
    assert (sitting["command"], sitting["preset"], manifest["device"]) == ("evaluate this", "mine", "cpu")
    assert set(manifest["sha256"]) == {"images", "labels", "f_a", "f_b"}
    assert {"torch", "numpy"} <= set(manifest["versions"])
    # who goes on is added
    set_preset(monkeypatch, a=step, b=darker)
    run(out=tmp_path, about={"command": "evaluate that"})
    sittings = json.loads((tmp_path / "manifest.json").read_text())["sittings"]
    assert [told["command"] for told in sittings] == ["evaluate this", "evaluate that"]


def test_a_known_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what a fixed D decides is the same for the attack and for every draw that scores it
    seen: list[Tensor] = []

    def look(target: Target) -> Tensor:
        with torch.no_grad():
            views = [target.view(eot_samples=k)(target.x) for k in (1, 4)]
        assert torch.equal(*views)
        seen.append(views[0].argmax(1))
        return target.x

    set_preset(monkeypatch, look=look)
    result = run(fixed_draw=True)
    right = (torch.cat(seen) == Y).double().tolist()
    assert result.attacks[0].per_image == result.clean.per_image == right
    assert 0 < sum(right) < len(Y)
    assert result.settings["fixed_draw"]
    with pytest.raises(ValueError, match="fixed_draw: False there, True here"):
        run(out=tmp_path) and run(out=tmp_path, fixed_draw=True)


def test_results_follow_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=step)
    results = []
    for k, seed in enumerate((0, 0, 1)):
        torch.manual_seed(k)  # global state must not matter
        results.append(timeless(run(seed=seed, out=tmp_path / str(k))))
    assert results[0] == results[1]
    clean = [r.clean.per_image for r in results]
    assert clean[0] != clean[2]  # other draws
    attacked = [load_file(tmp_path / str(k) / "chunks" / "a-00000.safetensors")["attacked"] for k in range(3)]
    assert torch.equal(attacked[0], attacked[1])
    assert not torch.equal(attacked[0], attacked[2])
    assert run(seed=0, chunk_size=3).clean.per_image == clean[0]  # an image's draws are its own


def test_draws_of_one_image_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch)
    assert all(0 < share < 1 for share in run(x=X[:1].repeat(10, 1, 1, 1), nb_draws=40).clean.per_image)


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_preset(monkeypatch, a=step)
    assert run().path is None
    assert list(tmp_path.iterdir()) == []
    kept = run(out="out", about={"nets": "mine", "seed": 99})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chunks", "evaluation.json", "manifest.json"]
    assert (kept.settings["nets"], kept.settings["seed"]) == ("mine", 0)
