"""Progress: an estimate however slow the steps, and lines where no bars can be drawn."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from art_advtransform import terminal
from art_advtransform.diagnostics import Verdict
from art_advtransform.page import DIAGNOSIS, read_diagnosis
from art_advtransform.shards import Shards
from tests.cases import digits_case


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def steps(monkeypatch: pytest.MonkeyPatch, seconds: float, *, is_terminal: bool) -> tuple[list[str], float | None]:
    """Lines that are printed while four of ten steps are done, each of so many seconds, and the estimate after them."""
    file, clock = io.StringIO(), Clock()
    monkeypatch.setattr(terminal, "console", Console(file=file, force_terminal=is_terminal, width=100))
    with terminal.bars() as shown:
        shown.get_time = clock
        advance = terminal.bar(shown, "f_a")
        for done in range(1, 5):
            clock.now += seconds
            advance("loss 1.000", done, 10)
        left, lines = shown.tasks[0].time_remaining, file.getvalue().splitlines()
    return lines, left


@pytest.mark.parametrize("seconds", [1.0, 45.0, 300.0])
def test_the_estimate_needs_no_quick_steps(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    assert steps(monkeypatch, seconds, is_terminal=True)[1] == pytest.approx(6 * seconds, abs=1)


def test_a_log_file_gets_lines_with_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = steps(monkeypatch, 45.0, is_terminal=False)
    assert lines[-1] == "f_a: loss 1.000 4/10, 0:03:00 elapsed, 0:04:30 left"
    assert len(lines) == 4


def test_a_log_file_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(steps(monkeypatch, 16.0, is_terminal=False)[0]) == 2


def test_of_several_processes_one_writes_the_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, found = digits_case(n=3), {2: Verdict("fail", "nothing is right"), 3: Verdict("pass", "all is well")}
    monkeypatch.setattr(Shards, "is_main", property(lambda self: False))
    assert not terminal.show_verdicts(found, case, {}, tmp_path, as_json=False)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert terminal.show_verdicts({3: found[3]}, case, {}, tmp_path, as_json=False)
    assert (tmp_path / DIAGNOSIS).exists()


@pytest.mark.parametrize("change", ["checks_code", "attack_code", "found"])
def test_verdicts_of_other_checks_or_images_are_replaced(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, fine = digits_case(n=3), Verdict("pass", "all is well")
    terminal.show_verdicts({3: fine}, case, {}, tmp_path, as_json=False)
    terminal.show_verdicts({2: fine}, case, {}, tmp_path, as_json=False)
    assert sorted(read_diagnosis(tmp_path)["verdicts"]) == ["2", "3"]  # type: ignore[index]
    if change == "found":
        case = replace(case, found=case.x)
    else:
        monkeypatch.setattr(terminal, change, lambda: "other")
    terminal.show_verdicts({2: fine}, case, {}, tmp_path, as_json=False)
    assert sorted(read_diagnosis(tmp_path)["verdicts"]) == ["2"]  # type: ignore[index]
