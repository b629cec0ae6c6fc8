"""Pictures of the paper's tables: what is drawn are the numbers of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from benchmarks.pictures import table_figure

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
