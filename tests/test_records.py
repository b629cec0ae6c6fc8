"""Records: JSON whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from art_advtransform.counting import count
from art_advtransform.records import AttackResult, Evaluation, environment
from tests.problems import seeded


def result(name: str, seed: int) -> AttackResult:
    predicted = torch.randint(0, 3, (6, 12), generator=seeded(seed))
    counted = count(predicted, torch.zeros(6, dtype=torch.int64))
    return AttackResult.counted(name, "white box", "art", counted, forward=3.5, backward=2.0, seconds=0.25)


def evaluation() -> Evaluation:
    failed = AttackResult("C", "black box", "foolbox", "failed: ValueError: no start")
    settings = {"seed": 0, "threat": {"eps": 8 / 255}, "transform": None}
    return Evaluation(
        settings, result("no attack", 0), [result("A", 1), failed], result("worst", 2), ["A", "no attack"]
    )


# ---- the JSON record


def test_roundtrip(tmp_path: Path) -> None:
    original = evaluation()
    saved = original.save(tmp_path / "new" / "evaluation.json")
    assert saved == replace(original, path=tmp_path / "new" / "evaluation.json")
    assert Evaluation.load(tmp_path / "new" / "evaluation.json") == saved
    assert saved.attacks[0].mean is not None
    assert saved.attacks[0].forward == 3.5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_what_is_counted_is_recorded() -> None:
    predicted = torch.randint(0, 3, (6, 12), generator=seeded(1))
    counted = count(predicted, torch.zeros(6, dtype=torch.int64))
    found = result("A", 1)
    assert (found.mean, found.majority, found.any) == (counted.mean, counted.majority, counted.any)
    assert found.per_image == counted.per_image.tolist()
    assert found.problem == ""


def _without_attacks(path: Path) -> None:
    raw = json.loads(path.read_text())
    del raw["attacks"]
    path.write_text(json.dumps(raw))


def _with_another_field(path: Path) -> None:
    raw = json.loads(path.read_text())
    raw["clean"]["luck"] = 1
    path.write_text(json.dumps(raw))


def _cut_short(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def _a_list(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [_without_attacks, _with_another_field, _cut_short, _a_list])
def test_damaged_record(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    evaluation().save(path)
    damage(path)
    with pytest.raises(ValueError, match=r"damaged record .*evaluation\.json"):
        Evaluation.load(path)


def test_missing_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Evaluation.load(tmp_path / "evaluation.json")


def test_a_record_that_can_not_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    saved = evaluation().save(tmp_path / "evaluation.json")
    with pytest.raises(ValueError, match="JSON"):
        replace(evaluation(), settings={"eps": float("nan")}).save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == saved


def test_environment() -> None:
    found = environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]  # the wheel names the build behind a "+"
    assert {"art-advtransform", "numpy", "adversarial-robustness-toolbox"} <= set(found["versions"])
    assert all(found["versions"].values())
    assert found["device"] == "cpu"
