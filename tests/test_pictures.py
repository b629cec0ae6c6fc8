"""Pictures of the paper's tables: what is drawn are the numbers of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from benchmarks.pictures import ratio_figure, table_figure

ABOUT = {"dataset": "digits", "eps": 0.125, "images": 30, "draws": 10}
ROWS: list[dict[str, Any]] = [
    {"method": "one", "worst": 40.0, "worst_low": 30.0, "worst_high": 45.0, "paper_worst": 80.0, **ABOUT},
    {"method": "two", "worst": 10.0, "paper_worst": "-", **ABOUT},
    {"method": "not run", "worst": "-", "paper_worst": "-", **ABOUT},
]


def test_bars_intervals_and_marks_are_those_of_the_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    path = table_figure(ROWS, "method", ("worst",), tmp_path / "there" / "table.png")
    assert path.stat().st_size > 0
    (axes,) = drawn[0].axes
    assert sorted(bar.get_width() for bar in axes.patches if bar.get_width()) == [10.0, 40.0]  # type: ignore[attr-defined]
    # what has neither ours nor the paper's number is left out
    assert [text.get_text() for text in axes.get_yticklabels()] == ["one", "two"]
    marks = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() == "D"]
    assert [80.0] in marks
    (interval,) = [line for line in axes.collections if isinstance(line, LineCollection)]
    assert [float(x) for x, _ in interval.get_segments()[0]] == [30.0, 45.0]


def test_a_bar_that_is_too_short_to_be_seen_has_its_number_beside_it(tmp_path: Path, drawn: list[Figure]) -> None:
    table_figure(
        [*ROWS, {"method": "nothing left", "worst": 0.25, **ABOUT}], "method", ("worst",), tmp_path / "table.png"
    )
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["0.2"]


def test_numbers_that_the_paper_took_from_others_have_a_mark_of_their_own(tmp_path: Path, drawn: list[Figure]) -> None:
    cited = {"method": "cited", "worst": 0.0, "paper_worst": 5.0, "paper_source": "Athalye et al.", **ABOUT}
    table_figure([{**ROWS[0], "paper_source": "the paper"}, cited], "method", ("worst",), tmp_path / "table.png")
    (axes,) = drawn[0].axes
    marks = {
        float(np.asarray(line.get_xdata())[0]): line for line in axes.lines if len(np.asarray(line.get_xdata())) == 1
    }
    assert [marks[x].get_fillstyle() for x in (80.0, 5.0)] == ["full", "none"]
    (legend,) = drawn[0].legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:2] == ["the paper's, on its own data set and nets", "from others, in the paper"]
    (number,) = axes.texts
    assert number.get_position()[0] > 5.0  # not behind the mark


def test_ratios_are_bars_with_the_papers_beside_them(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [
        {"training": "standard", "over": 1.0, "paper_over": 1.0},
        {"training": "other", "over": 8.19, "paper_over": "-"},
    ]
    path = ratio_figure(rows, "training", "over", "time over time", tmp_path / "there" / "cost.png")
    assert path.stat().st_size > 0
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 8.19]  # type: ignore[attr-defined]
    assert [text.get_text() for text in axes.texts] == [" 1.00", " 8.19"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["standard", "other"]
    (marks,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert np.asarray(marks.get_xydata()).tolist() == [[1.0, 0.0]]
