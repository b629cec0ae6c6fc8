"""The record of the checks: kept as they come, gone on from, and never of two minds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from art_advtransform import diagnosis
from art_advtransform.diagnosis import DIAGNOSIS, keep, kept_verdicts, read_diagnosis, run_checks, settings_of
from art_advtransform.diagnostics import CHECKS, Case, Verdict
from art_advtransform.pretrained import load_pretrained
from art_advtransform.shards import Shards
from tests.cases import digits_case

FINE = Verdict("pass", "all is well", {"share": 0.5}, {"accuracy against budget": [(0.0, 1.0)]})


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(digits_case(n=3), {})
    monkeypatch.setattr(Shards, "is_main", property(lambda self: False))
    keep(tmp_path, settings, {3: FINE})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert keep(tmp_path, settings, {3: FINE}).exists()


@pytest.mark.parametrize(
    "change",
    ["checks_code", "attack_code", "found", "evaluation", "seed", "undefended", "clip_values", "command"],
)
def test_verdicts_of_other_settings_are_replaced(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, about = digits_case(n=3), {"evaluation": "one", "command": "diagnose"}
    for number in (3, 2):
        keep(tmp_path, settings_of(case, about), {number: FINE})
    assert sorted(kept_verdicts(tmp_path, settings_of(case, about))) == [2, 3]
    if change == "found":
        case = replace(case, found=case.x)
    elif change == "seed":
        case = replace(case, seed=1)
    elif change == "undefended":
        case = replace(case, undefended=load_pretrained("digits/adversarial"))
    elif change == "clip_values":
        case = replace(case, threat=replace(case.threat, clip_values=(0.0, 2.0)))
    elif change in about:
        about[change] = "another"
    else:
        monkeypatch.setattr(diagnosis, change, lambda: "other")
    keep(tmp_path, settings_of(case, about), {2: FINE})
    record = read_diagnosis(tmp_path)
    assert record is not None
    assert sorted(record["verdicts"]) == (["2", "3"] if change == "command" else ["2"])


def test_what_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def fake(number: int) -> tuple[str, Any]:
        def run(case: Case) -> Verdict:
            ran.append(number)
            if number == 4 and ran.count(4) == 1:
                raise KeyboardInterrupt
            return replace(FINE, reason=f"number {number}")

        return CHECKS[number][0], run

    for number in (2, 3, 4, 7):
        monkeypatch.setitem(CHECKS, number, fake(number))
    with pytest.raises(KeyboardInterrupt):
        run_checks(digits_case(n=3), {}, tmp_path, [2, 3, 4, 7])
    assert sorted(json.loads((tmp_path / DIAGNOSIS).read_text())["verdicts"]) == ["2", "3"]
    verdicts, settings, path = run_checks(digits_case(n=3), {}, tmp_path, [7, 2, 3, 4])
    assert ran == [2, 3, 4, 4, 7]
    assert [verdicts[n].reason for n in (2, 3, 4, 7)] == [f"number {n}" for n in (2, 3, 4, 7)]
    assert path == tmp_path / DIAGNOSIS
    assert settings["nb_images"] == 3
    with pytest.raises(ValueError, match="unknown check 20"):
        run_checks(digits_case(n=3), {}, tmp_path, [2, 20])
    # what goes is told
    assert caplog.text == ""
    run_checks(digits_case(n=3), {}, tmp_path, [2])
    assert caplog.text == ""
    run_checks(digits_case(n=3, seed=1), {}, tmp_path, [2])
    assert "diagnosis.json is damaged or of other settings: its verdicts are replaced" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}', '{"settings": {}, "verdicts": {"2": {}}}'])
def test_a_damaged_record_is_replaced(content: str, tmp_path: Path) -> None:
    settings = settings_of(digits_case(n=3), {})
    (tmp_path / DIAGNOSIS).write_text(content)
    assert kept_verdicts(tmp_path, settings) == {}
    keep(tmp_path, settings, {2: FINE})
    assert kept_verdicts(tmp_path, settings)[2].reason == "all is well"
