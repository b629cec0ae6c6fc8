"""Figures of lines: what is left against what was spent, and curves with marks beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from art_advtransform.figures import cost_figure, curve_figure
from tests.evaluations import by_hand, measured
from tests.test_figures import pixels

# ---- cost


def test_what_is_left_against_what_was_spent(drawn: list[Figure], tmp_path: Path) -> None:
    first = measured("A", 0.5, forward=0.0, stage="0 transfer", remaining=0.5)
    second = measured("B", 0.6, forward=10.0, stage="1 more", remaining=0.45)
    third = measured("C", 0.3, forward=30.0, stage="1 more", remaining=0.25)
    skipped = replace(measured("D", 0.1), remaining=None)
    made = by_hand()
    staged = replace(made["behind g"], attacks=[first, second, skipped, third])
    cost_figure({"staged": staged, "old": made["plain"]}, tmp_path / "cost.png")
    pixels(tmp_path / "cost.png")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    np.testing.assert_allclose(lines["staged"], [(0, 70), (0, 50), (10, 45), (40, 25)])
    np.testing.assert_allclose(lines["old"], [(0, 80)])
    # where a stage begins, once for each
    assert [text.get_text() for text in axes.texts] == ["0", "1"]


def test_numbers_that_would_cover_each_other_are_one_text(drawn: list[Figure], tmp_path: Path) -> None:
    spent = {"0 transfer": 100.0, "1 more": 900.0, "2 little": 5.0, "3 less": 5.0}
    attacks = [measured(stage, 0.2, forward=cost, stage=stage, remaining=0.2) for stage, cost in spent.items()]
    staged = replace(by_hand()["behind g"], attacks=attacks)
    cost_figure({"staged": staged, "beside": staged}, tmp_path / "cost.png")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["0", "1, 2, 3"] * 2
    # beside its own point, however many lines there are
    assert {text.xyann for text in axes.texts if isinstance(text, Annotation)} == {(3, 4)}


# ---- curves


def test_marks_stand_beside_curves_and_are_named(drawn: list[Figure], tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    curve_figure({"ours": [(1, 10), (2, 20)]}, "accuracy against eps", path, marks={"the paper's": [(2, 80)]})
    pixels(path)
    (axes,) = drawn[0].axes
    ours, paper = axes.lines
    assert np.asarray(ours.get_xydata()).tolist() == [[1, 10], [2, 20]]
    assert (np.asarray(paper.get_xydata()).tolist(), paper.get_linestyle()) == ([[2, 80]], "None")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "the paper's"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("accuracy", "eps")


def test_intervals_are_shaded_and_what_was_measured_stands_below(drawn: list[Figure], tmp_path: Path) -> None:
    curves: dict[str, list[tuple[float | None, ...]]] = {
        "with": [(1, 10, 5, 15), (2, 20, 18, 26)],
        "without": [(1, 3), (2, 4)],
        "one unknown": [(1, 3, 2, 4), (2, None, None, None)],
    }
    pixels(curve_figure(curves, "accuracy against N", tmp_path / "curve.png", note="digits, 20 images"))
    (axes,) = drawn[0].axes
    first, second = (collection.get_paths()[0].get_extents() for collection in axes.collections)
    assert (first.x0, first.x1, first.y0, first.y1) == (1, 2, 5, 26)
    assert (second.x0, second.x1, second.y0, second.y1) == (1, 1, 2, 4)
    assert len(axes.lines) == 3
    assert (axes.get_xlabel(), drawn[0].get_supxlabel()) == ("N", "digits, 20 images; shaded: 95 % intervals")
    kept_none: dict[str, list[tuple[float | None, ...]]] = {"ours": [(1, 3, None, None), (2, 4, None, None)]}
    curve_figure(kept_none, "accuracy against N", tmp_path / "curve.png", note="digits, 20 images")
    assert drawn[1].get_supxlabel() == "digits, 20 images"


def test_many_curves_have_their_legend_beside_and_their_own_ticks(drawn: list[Figure], tmp_path: Path) -> None:
    curves: dict[str, list[tuple[float, float | None]]] = {
        f"rule {k}": [(1, k), (4, None), (64, 2 * k)] for k in range(6)
    }
    pixels(curve_figure(curves, "gain against draws", tmp_path / "curve.png", logarithmic=True))
    (axes,) = drawn[0].axes
    assert axes.get_legend() is None
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "64"]
    assert axes.get_xscale() == "log"
