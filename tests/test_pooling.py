"""Evaluations of parts of the images, put together: what one of all of them would count, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from art_advtransform import cli
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnosis import DIAGNOSIS
from art_advtransform.evaluate_nets import pool_evaluations
from art_advtransform.page import save_report
from art_advtransform.pooling import pooled
from art_advtransform.records import AttackResult, Evaluation
from tests.commands import run as command
from tests.evaluations import Coin, X, Y, darker, run, set_preset

PARTS = (slice(0, 4), slice(4, 10))


def of_parts(model: DefendedModel | None = None, **more: Any) -> list[Evaluation]:
    return [run(model, X[part], Y[part], about={"skip": part.start}, **more) for part in PARTS]


def changed(evaluation: Evaluation, **settings: Any) -> Evaluation:
    return replace(evaluation, settings={**evaluation.settings, **settings})


def test_parts_together_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, darker=darker, lighter=lambda t: t.x + 0.05)
    model = DefendedModel(Coin(), None)  # of random draws the images of another part have others
    whole, found = run(model), pooled(of_parts(model))
    assert 0 < whole.clean.per_image.count(1.0) < len(X)
    for one, other in zip(
        (whole.clean, *whole.attacks, whole.worst), (found.clean, *found.attacks, found.worst), strict=True
    ):
        assert one.per_image == other.per_image
        assert one.mean == other.mean  # its interval, too: of the same images in the same order
        assert (one.forward, one.backward) == pytest.approx((other.forward, other.backward))
        assert (one.max_distance, one.nb_attacked) == (other.max_distance, other.nb_attacked)
        assert one.remaining == pytest.approx(other.remaining)
        for a, b in ((one.majority, other.majority), (one.any, other.any)):
            assert a is not None
            assert b is not None
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=0.05)
            assert a.value == pytest.approx(b.value)
    # of attacks that are as strong on an image the one that is strongest over all of its run is named
    assert len(found.chosen) == len(X)
    assert {*found.chosen} <= {"no attack", "darker", "lighter"}
    assert found.settings["nb_images"] == 10
    assert [part["nb_images"] for part in found.settings["parts"]] == [4, 6]


def test_votes_and_any_of_random_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, darker=darker)
    parts = of_parts()
    found = pooled(parts)
    for name in ("mean", "majority", "any"):
        values = [getattr(part.worst, name).value for part in parts]
        assert getattr(found.worst, name).value == pytest.approx((4 * values[0] + 6 * values[1]) / 10)
    assert found.attacks[0].seconds == pytest.approx(sum(part.attacks[0].seconds for part in parts))
    assert found.identity not in {part.identity for part in parts}


def test_an_attack_without_numbers_on_a_part_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, darker=darker)
    one, two = of_parts()
    lost = AttackResult("darker", "white box", "art", "failed: RuntimeError: no gradient")
    found = pooled([one, replace(two, attacks=[lost])])
    assert found.attacks[0].problem == "failed: RuntimeError: no gradient (images 4 to 9)"
    assert found.attacks[0].mean is None
    assert found.missing == ["darker"]
    assert found.worst.mean is not None
    unneeded = AttackResult("darker", "white box", "art", "not run: there is no g")
    assert pooled([replace(part, attacks=[unneeded]) for part in (one, two)]).attacks == [unneeded]
    # one failed where the other was not run: the worst case lacks something
    assert pooled([replace(one, attacks=[unneeded]), replace(two, attacks=[lost])]).missing == ["darker"]


def test_what_is_a_mean_a_sum_or_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, darker=darker)
    one, two = of_parts()
    numbers: dict[str, Any] = {"published": 0.78, "stage": "1 expectation"}
    first = replace(
        one.attacks[0], forward=10.0, backward=1.0, seconds=5.0, max_distance=0.1, nb_nan=1, nb_attacked=3,
        remaining=0.5, **numbers,
    )  # fmt: skip
    second = replace(
        two.attacks[0], forward=20.0, backward=3.0, seconds=7.0, max_distance=0.05, nb_nan=2, nb_attacked=5,
        remaining=0.25, **numbers,
    )  # fmt: skip
    one = changed(replace(one, attacks=[first], chosen=["darker"] * 4), command="a", threads=1)
    two = changed(replace(two, attacks=[second], chosen=["no attack"] * 6), command="b", threads=2)
    found = pooled([one, two])
    line = found.attacks[0]
    assert (line.name, line.published, line.stage) == ("darker", 0.78, "1 expectation")
    assert (line.forward, line.backward, line.seconds) == pytest.approx((16.0, 2.2, 12.0))
    assert (line.max_distance, line.nb_nan, line.nb_attacked) == (0.1, 3, 8)
    assert line.remaining == pytest.approx(0.35)
    assert line.per_image == first.per_image + second.per_image
    assert found.chosen == ["darker"] * 4 + ["no attack"] * 6
    assert (found.settings["skip"], found.settings["nb_images"], found.settings["command"]) == (0, 10, "a; b")
    assert "threads" not in found.settings
    assert [(part["skip"], part["threads"], part["command"]) for part in found.settings["parts"]] == [
        (0, 1, "a"),
        (4, 2, "b"),
    ]
    hashes = {part.settings["sha256"]["images"] for part in (one, two, found)}
    assert len(hashes) == 3
    assert found.settings["sha256"]["f_a"] == one.settings["sha256"]["f_a"]
    assert pooled([two, one]) == found  # in whatever order


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda e: changed(e, seed=1),
            "expected parts of one evaluation, got others for images 0 to 3 and 4 to 9: seed: 0 and 1",
        ),
        (lambda e: changed(e, budget=0.5), "budget: 1.0 and 0.5"),
        (lambda e: changed(e, attack_code="other"), "attack_code"),
        (lambda e: changed(e, chunk_size=5), "chunk_size: 4 and 5"),
        (lambda e: changed(e, sha256={**e.settings["sha256"], "f_a": "other"}), "other f_a"),
        (lambda e: changed(e, attacks={"darker": "other"}), "other attack 'darker'"),
        (lambda e: replace(e, attacks=[]), "other attacks"),
        (lambda e: changed(e, versions={"torch": "1.0"}), "versions: "),
        (lambda e: changed(e, device="cuda"), "device: 'cpu' and 'cuda'"),
        (lambda e: changed(e, transform={"eps": 0.1}), "transform: {"),
        (lambda e: changed(e, younger=1), "other younger"),
        (lambda e: changed(e, skip=3), "expected parts that follow each other, got images 0 to 3, 3 to 8"),
        (lambda e: changed(e, skip=5), "expected parts that follow each other, got images 0 to 3, 5 to 10"),
        (lambda e: changed(e, parts=[]), "put together already"),
        (lambda e: replace(e, chosen=[]), "expected numbers of 6 images, got 0: chosen attacks, images 4 to 9"),
        (lambda e: replace(e, worst=replace(e.worst, per_image=[1.0])), "got 1: per-image worst case, images 4 to 9"),
    ],
)
def test_others_are_no_parts(
    change: Callable[[Evaluation], Evaluation], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_preset(monkeypatch, darker=darker)
    one, two = of_parts()
    three = changed(one, skip=10)
    with pytest.raises(ValueError, match=re.escape(told)):
        pooled([one, change(two)])
    with pytest.raises(ValueError, match="expected at least two parts, got 1"):
        pooled([one])
    with pytest.raises(ValueError, match="got the same images twice"):
        pooled([one, two, three])
    with pytest.raises(ValueError, match="others for images 0 to 3 and 10 to 13: seed: 0 and 1"):
        pooled([one, two, changed(three, seed=1)])


def test_samples_with_skip_are_disjoint_and_in_order() -> None:
    digits = load_dataset("digits")
    whole = digits.sample(30)
    parts = [digits.sample(10), digits.sample(20, skip=10)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    with pytest.raises(ValueError, match=re.escape("expected at most 7 images of digits after 590 others, got 8")):
        digits.sample(8, skip=590)
    with pytest.raises(ValueError, match="skip"):
        digits.sample(8, skip=-1)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("evaluate", "--preset", "smoke", "--model", "undefended", "--draws", "2")
    command(*few, "--images", "3", "--out", "a")
    command(*few, "--images", "4", "--skip", "3", "--out", "b")
    command(*few, "--images", "7", "--out", "whole")
    output = command("report", "a", "b", "--pool", "--out", "c")
    assert str(Path("c/undefended/evaluation.json")) in output
    found, whole = (json.loads(Path(f"{name}/undefended/evaluation.json").read_text()) for name in ("c", "whole"))
    assert found["clean"]["per_image"] == whole["clean"]["per_image"]
    assert [part["skip"] for part in found["settings"]["parts"]] == [0, 3]
    assert "over 7 images in 2 parts (images 0 to 2, 3 to 6 of the sample)" in Path("c/table.md").read_text()
    assert Path("c/report.html").is_file()
    for folders, told in (
        (["a", "b"], "a, which is a part"),
        (["a", "a"], "follow each other"),
        (["a"], "at least two parts"),
    ):
        out = "a" if folders == ["a", "b"] else "d"
        result = CliRunner().invoke(cli.app, ["report", *folders, "--pool", "--out", out])
        assert isinstance(result.exception, ValueError)
        assert told in str(result.exception)
    assert not Path("d").exists()
    before = Path("whole/undefended/evaluation.json").read_bytes()
    result = CliRunner().invoke(cli.app, ["report", "a", "b", "--pool", "--out", "whole"])
    assert "got whole, which a run has written" in str(result.exception)
    assert Path("whole/undefended/evaluation.json").read_bytes() == before


def test_parts_of_other_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command("evaluate", "--preset", "smoke", "--model", "undefended", "--draws", "2", "--images", "3", "--out", "a")
    shutil.copytree("a/undefended", "b/undefended")
    path = Path("b/undefended/evaluation.json")
    path.write_text(path.read_text().replace('"model": "undefended"', '"model": "adversarial"'))
    with pytest.raises(ValueError, match="expected parts of the same models, got adversarial in b and undefended"):
        pool_evaluations(Path("a"), Path("b"), out=Path("c"))


def test_a_check_of_a_part_is_one_of_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_preset(monkeypatch, darker=darker)
    parts = of_parts()
    whole = pooled(parts)
    assert whole.identities == [whole.identity, *(part.identity for part in parts)]
    settings = {"eps": whole.settings["threat"]["eps"], "nb_images": 4, "max_iter": 5, "eot_samples": 2}
    for evaluation, shown in ((parts[1].identity, True), ("of another", False)):
        diagnosis = {"settings": {**settings, "evaluation": evaluation, "sha256": {}}, "verdicts": {}}
        (tmp_path / DIAGNOSIS).write_text(json.dumps(diagnosis))
        assert ("checks" not in save_report({"defended": whole}, "one", tmp_path)) is shown
