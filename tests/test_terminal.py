"""Progress: an estimate however slow the steps, and lines where no bars can be drawn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from art_advtransform import terminal


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


def test_images_and_epochs_have_an_estimate_each(monkeypatch: pytest.MonkeyPatch) -> None:
    # g(x) of all images, two epochs, g(x) again, the third: the pace of one says nothing of the other
    clock = Clock()
    monkeypatch.setattr(terminal, "console", Console(file=io.StringIO(), force_terminal=True, width=100))

    def go_on(what: str, seconds: float, done: range, total: int) -> None:
        for k in done:
            clock.now += seconds
            advance(what, k, total)

    with terminal.bars() as shown:
        shown.get_time = clock
        advance = terminal.bar(shown, "f_a")
        go_on("g(x)", 1.0, range(100, 1001, 100), 1000)
        go_on("loss 1.000", 60.0, range(1, 4), 9)
        images, epochs = shown.tasks
        assert epochs.time_remaining == pytest.approx(6 * 60, abs=1)
        go_on("g(x)", 2.0, range(100, 401, 100), 1000)
        assert images.time_remaining == pytest.approx(6 * 2, abs=1)


def test_a_log_file_gets_lines_with_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = steps(monkeypatch, 45.0, is_terminal=False)
    assert lines[-1] == "f_a: loss 1.000 4/10, 0:03:00 elapsed, 0:04:30 left"
    assert len(lines) == 4


def test_a_log_file_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(steps(monkeypatch, 16.0, is_terminal=False)[0]) == 2
