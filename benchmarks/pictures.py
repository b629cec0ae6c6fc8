"""Pictures of the paper's tables and costs: ours as bars, accuracies with intervals, the paper's numbers as marks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.columns import MEASURED, known

_BESIDE = 8  # per cent: a mark farther away leaves room for a number


def table_figure(rows: Sequence[dict[str, Any]], by: str, columns: Sequence[str], path: Path) -> Path:
    """A group of bars for each row that has numbers.

    Args:
        rows: as they are written: accuracies in per cent; of a column ``c`` the interval is ``c_low`` and ``c_high`` and the
            paper's number ``paper_c``, where there are any.
        by: the column that names a row.
        columns: what is drawn.
        path: where to.
    """
    shown = [row for row in rows if any(known(row.get(column)) is not None for column in columns)]
    figure = Figure(figsize=(8, 1.4 + 0.22 * len(shown) * len(columns)), layout="constrained")
    axes = figure.subplots()
    thickness = 0.8 / len(columns)
    for k, column in enumerate(columns):
        for i, row in enumerate(shown):
            height = i + (k - (len(columns) - 1) / 2) * thickness
            ours, paper = known(row.get(column)), known(row.get(f"paper_{column}"))
            if ours is not None:
                low, high = (known(row.get(f"{column}_{end}")) for end in ("low", "high"))
                error = None if low is None or high is None else [[ours - low], [high - ours]]
                axes.barh(height, ours, thickness, xerr=error, color=f"C{k}", capsize=2)
                if ours < 1:  # a bar too short to be seen
                    beside = 2 if paper is None or paper > _BESIDE else paper + 2  # nor hidden by the paper's mark
                    axes.text(beside, height, f"{ours:.1f}", va="center", fontsize=7)
            if paper is not None:
                axes.plot(paper, height, "kD", markersize=4, fillstyle="full" if own(row) else "none")
        axes.barh(0, 0, color=f"C{k}", label=column.replace("_", " "))
    marked = [row for row in shown if any(known(row.get(f"paper_{column}")) is not None for column in columns)]
    if any(own(row) for row in marked):
        axes.plot([], [], "kD", markersize=4, label="the paper's, on its own data set and nets")
    if not all(own(row) for row in marked):
        axes.plot([], [], "kD", markersize=4, fillstyle="none", label="from others, in the paper")
    axes.set_yticks(range(len(shown)), [str(row[by]) for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(-1, 101)
    first = shown[0]
    # below the whole figure: below axes that long names have made narrow it would be cut
    figure.supxlabel(
        f"accuracy (per cent); {first['dataset']}, L-inf {first['eps']:.4g}, {first['images']} images, {first['draws']} draws",
        fontsize=10,
    )
    figure.legend(loc="outside upper center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def own(row: dict[str, Any]) -> bool:
    """Whether the paper has measured itself what it has."""
    return row.get("paper_source", MEASURED) in (MEASURED, "-")


def ratio_figure(rows: Sequence[dict[str, Any]], by: str, ratio: str, told: str, path: Path) -> Path:
    """A bar for each row, and a line at 1.

    Args:
        rows: as they are written; the paper's ratio is the column ``paper_<ratio>``.
        by: the column that names a row.
        ratio: the column that is drawn.
        told: of what to what, and what was measured.
        path: where to.
    """
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row[ratio] for row in rows])
    for i, row in enumerate(rows):
        axes.text(row[ratio], i, f" {row[ratio]:.2f}", va="center", fontsize=8)
    paper = [(known(row[f"paper_{ratio}"]), i) for i, row in enumerate(rows)]
    marks = [(value, i) for value, i in paper if value is not None]
    axes.plot([x for x, _ in marks], [y for _, y in marks], "kD", markersize=4, label="the paper's, on its GPU")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [str(row[by]) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    figure.supxlabel(told, fontsize=10)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
