"""L7: figures, by matplotlib (the extra ``report``)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from art_advtransform.records import AttackResult, Evaluation
from art_advtransform.report import draws_told, label, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From a point to its text, in points: beside the line that falls to it.
_BESIDE = (3, 4)
# Pixels that the number of a stage takes, with what parts it from the next.
_WIDTH = 15
# So many lines leave room for a legend among them.
_MOST_LINES = 5
# So many numbers stand side by side below the axis.
_MOST_TICKS = 8


def accuracy_figure(evaluations: Mapping[str, Evaluation], path: str | os.PathLike[str]) -> Path:
    """Bars of mean accuracy with 95 % intervals, attack by attack, the models side by side.

    Args:
        evaluations: by the name of the model.
        path: where to; the ending chooses the format.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = _new_figure(9, 1.6 + 0.5 * len(rows(evaluations)))
    axes = figure.subplots()
    all_rows = rows(evaluations)
    thickness = 0.8 / len(evaluations)
    for m, model in enumerate(evaluations):
        for i, (_, results) in enumerate(all_rows):
            result, height = results.get(model), i + (m - (len(evaluations) - 1) / 2) * thickness
            if result is None or result.mean is None:
                axes.text(0.5, height, "not run", va="center", fontsize=7, color="grey")
                continue
            mean = result.mean
            error = [[100 * (mean.value - mean.low)], [100 * (mean.high - mean.value)]]
            entry = model if i == 0 else None
            axes.barh(height, 100 * mean.value, thickness, xerr=error, color=f"C{m}", capsize=2, label=entry)
            if 100 * mean.value < 1:  # a bar too short to be seen
                axes.text(100 * mean.high + 1, height, f"{100 * mean.value:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(all_rows)), [label(name, evaluations) for name, _ in all_rows])
    axes.set_ylim(len(all_rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    settings = next(iter(evaluations.values())).settings
    # to the left: beside long names of attacks the axis is shorter than its text
    axes.set_xlabel(
        f"accuracy (per cent)\n{settings['nb_images']} images, L-inf {settings['threat']['eps']:.4g}, "
        f"{draws_told(settings)}",
        loc="right",
    )
    figure.legend(loc="outside upper center", ncols=len(evaluations))
    return _save(figure, path)


def transform_figure(x: Tensor, draws: Tensor, expected: Tensor, path: str | os.PathLike[str]) -> Path:
    """One row for each image: x, g(x) for some draws, E[g(x)], and the normalised difference E[g(x)] - x (Figs. 2, 4, 9).

    Args:
        x: images (n, C, H, W) in [0, 1].
        draws: g(x) (draws, n, C, H, W); pixels outside [0, 1], which g may make, are shown clipped.
        expected: E[g(x)], shape of ``x``.
        path: where to; the ending chooses the format.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: without matplotlib.
        ValueError: if the shapes don't belong together, or a pixel is not finite.
    """
    for name, images in (("draws", draws), ("expected", expected[None])):
        if images.shape[1:] != x.shape:
            raise ValueError(f"expected {name} of images of shape {tuple(x.shape)}, got {tuple(images.shape[1:])}")
    if not all(bool(torch.isfinite(images).all()) for images in (x, draws, expected)):
        raise ValueError("expected finite images, got NaN or infinite pixels")
    columns = {"x": x, **{f"g(x), draw {k + 1}": draw for k, draw in enumerate(draws)}, "E[g(x)]": expected}
    return grid_figure({**columns, "E[g(x)] - x, normalised": normalised(expected - x)}, path)


def grid_figure(columns: Mapping[str, Tensor], path: str | os.PathLike[str]) -> Path:
    """Images (n, C, H, W) by the title of their column, one row for each; pixels outside [0, 1] are shown clipped.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    nb_rows = len(next(iter(columns.values())))
    figure = _new_figure(1.7 * len(columns), 1.8 * nb_rows)
    grid = figure.subplots(nb_rows, len(columns), squeeze=False)
    for j, (title, images) in enumerate(columns.items()):
        grid[0][j].set_title(title, fontsize=9)
        for i, image in enumerate(images):
            _show(grid[i][j], image)
    return _save(figure, path)


def curve_figure(
    curves: Mapping[str, Sequence[Sequence[float | None]]],
    title: str,
    path: str | os.PathLike[str],
    *,
    logarithmic: bool = False,
    marks: Mapping[str, Sequence[Sequence[float]]] | None = None,
    note: str = "",
) -> Path:
    """Lines through points, by name.

    Args:
        curves: points (x, y), or (x, y, low, high) where an interval is shaded; ``None``: not known.
        title: "what against what".
        path: where to; the ending chooses the format.
        logarithmic: in x.
        marks: points without lines.
        note: a line below: what was measured; whether intervals are shaded it says by itself.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    beside = len(curves) + len(marks or {}) > _MOST_LINES  # the legend would hide the lines
    figure = _new_figure(6.5 if beside else 4.5, 2.8)
    axes = figure.subplots()
    for name, points in curves.items():
        known = [[float("nan") if value is None else value for value in point] for point in points]
        (line,) = axes.plot([p[0] for p in known], [p[1] for p in known], marker="o", markersize=3, label=name)
        around = [(p[0], *p[2:]) for p in known if len(p) > 2]
        if any(math.isfinite(low) for _, low, _ in around):
            x, low, high = zip(*around, strict=True)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    for name, points in (marks or {}).items():
        axes.plot([p[0] for p in points], [p[1] for p in points], "kD", markersize=4, label=name)
    axes.set_ylabel(title.split(" against ")[0])
    axes.set_xlabel(title.split(" against ")[1] if " against " in title else "")
    told = [note] * bool(note) + ["shaded: 95 % intervals"] * bool(axes.collections)
    if told:
        figure.supxlabel("; ".join(told), fontsize=6.5)
    axes.grid(alpha=0.3)
    if logarithmic:
        axes.set_xscale("log")
        met = sorted({point[0] for points in curves.values() for point in points if point[0]})
        if len(met) <= _MOST_TICKS:
            axes.set_xticks(met, [f"{value:.3g}" for value in met])
            axes.minorticks_off()
    if beside:
        figure.legend(fontsize=7, loc="outside right upper")
    elif len(curves) > 1 or marks:
        axes.legend(fontsize=7)
    return _save(figure, path)


def cost_figure(evaluations: Mapping[str, Evaluation], path: str | os.PathLike[str]) -> Path:
    """What every attack leaves (per-image worst case so far) against what all of them spent, a line for each model.

    Args:
        evaluations: by the name of the model; of records without this number nothing is drawn.
        path: where to; the ending chooses the format.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = _new_figure(7, 4)
    axes = figure.subplots()
    lines = {model: _spending(evaluation) for model, evaluation in evaluations.items()}
    for m, (model, (points, _)) in enumerate(lines.items()):
        axes.plot(*zip(*points, strict=True), drawstyle="steps-post", marker=".", color=f"C{m}", label=model)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.set_xlabel("evaluations of f_a(g(.)) spent so far, mean over all images (numbers: stages)")
    axes.set_ylabel("accuracy left (per cent)")
    axes.grid(alpha=0.3)
    axes.legend()
    for m, (_, begun) in enumerate(lines.values()):
        _number_stages(axes, begun, f"C{m}")
    return _save(figure, path)


def _spending(evaluation: Evaluation) -> tuple[list[tuple[float, float]], list[tuple[tuple[float, float], str]]]:
    """What is left against what is spent, and where each stage has its first result."""
    spent, points, before = 0.0, [(0.0, 100 * _value(evaluation.clean))], ""
    begun = []
    for result in evaluation.attacks:
        if result.remaining is not None:
            spent += result.forward
            points.append((spent, 100 * result.remaining))
            if result.stage != before:
                begun.append((points[-1], result.stage.split()[0]))
            before = result.stage
    return points, begun


def _number_stages(axes: Axes, begun: Sequence[tuple[tuple[float, float], str]], color: str) -> None:
    """The numbers of stages beside their first results; of those that would cover each other in one text."""
    groups: list[tuple[tuple[float, float], list[str]]] = []
    for point, number in begun:
        x, y = axes.transData.transform(point)
        if groups:
            left, bottom = axes.transData.transform(groups[-1][0])
            if abs(x - left) < _WIDTH * (len(groups[-1][1]) + 1) and abs(y - bottom) < _WIDTH:
                groups[-1][1].append(number)
                continue
        groups.append((point, [number]))
    for point, numbers in groups:
        axes.annotate(", ".join(numbers), point, _BESIDE, textcoords="offset points", fontsize=7, color=color)


def examples_figure(examples: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Rows of x, attacked x, their normalised difference, g of both, and the normalised difference of these.

    Args:
        examples: safetensors with x, attacked, g, g_attacked, all (n, C, H, W).
        path: where to; the ending chooses the format.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    found = load_file(examples)
    x, attacked, g, g_attacked = (found[name] for name in ("x", "attacked", "g", "g_attacked"))
    columns = {"x": x, "attacked": attacked, "attacked - x": normalised(attacked - x), "g(x)": g}
    return grid_figure({**columns, "g(attacked)": g_attacked, "their difference": normalised(g_attacked - g)}, path)


def check_picture(path: str | os.PathLike[str]) -> Path:
    """``path``, if its ending is a format that figures are written in.

    Raises:
        ValueError: if it is not.
        ModuleNotFoundError: without matplotlib.
    """
    path, known = Path(path), _new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"expected a picture's ending ({', '.join(sorted(known))}), got {path.name!r}")
    return path


def normalised(difference: Tensor) -> Tensor:
    """Differences (..., C, H, W), each moved and scaled so that it just fills [0, 1], zero being grey (0.5).

    Example:
        >>> normalised(torch.tensor([[[-0.1, 0.0, 0.05]]]))
        tensor([[[0.0000, 0.5000, 0.7500]]])
    """
    largest = difference.abs().amax((-3, -2, -1), keepdim=True).clamp_min(torch.finfo(difference.dtype).tiny)
    return 0.5 + 0.5 * difference / largest


def _value(result: AttackResult) -> float:
    return float("nan") if result.mean is None else result.mean.value


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display needed

    return Figure(figsize=(width, height), layout="constrained")


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    path = check_picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
