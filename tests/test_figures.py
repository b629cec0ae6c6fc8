"""Figures: what is drawn is what was given, files are real pictures, and matplotlib's global state stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from art_advtransform.figures import (
    accuracy_figure,
    check_picture,
    normalised,
    transform_figure,
)
from tests.evaluations import by_hand, measured
from tests.problems import images, seeded

PNG = b"\x89PNG\r\n\x1a\n"


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """8-bit colours (height, width, 3) of a picture that is not blank."""
    content = path.read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 2000
    found = np.round(255 * imread(path)[..., :3]).astype(int)
    assert found.std() > 10
    return found


def sets(n: int = 2, draws: int = 3, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, draws of g(x), which leave [0, 1], and E[g(x)]."""
    x = images(n, (channels, 5, 6), seed)
    g = x + 0.4 * torch.rand((draws, *x.shape), generator=seeded(seed + 1)) - 0.2
    return x, g, g.mean(0)


# ---- accuracies


def test_bars_are_the_accuracies(drawn: list[Figure], tmp_path: Path) -> None:
    made = by_hand()
    assert accuracy_figure(made, tmp_path / "accuracy.png") == tmp_path / "accuracy.png"
    (figure,) = drawn
    (axes,) = figure.axes
    names = ["no attack", "A", "B", "C", "worst, but for 1 attack"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    found = {}
    for bar in bars:
        ((patch,), (line,)) = bar.patches, bar.errorbar.lines[2]  # type: ignore[union-attr]
        (low, _), (high, _) = line.get_segments()[0]
        row = round(patch.get_y() + patch.get_height() / 2)
        found[(row, patch.get_facecolor())] = (patch.get_width(), low, high)
    blue, orange = (mpl.colors.to_rgba(name) for name in ("C0", "C1"))
    expected = {
        (0, blue): (80, 75, 85), (1, blue): (20, 15, 25), (2, blue): (34.5678, 29.5678, 39.5678), (4, blue): (15, 10, 20),
        (0, orange): (70, 65, 75), (1, orange): (60, 55, 65), (3, orange): (45, 25, 65), (4, orange): (40, 35, 45),
    }  # fmt: skip
    assert set(found) == set(expected)
    assert all(found[key] == pytest.approx(numbers) for key, numbers in expected.items())
    # those without numbers say so, in their rows
    assert [(t.get_text(), round(t.get_position()[1])) for t in axes.texts] == [("not run", 3), ("not run", 2)]
    (legend,) = figure.legends  # above the axes, where it covers no bar
    assert [t.get_text() for t in legend.get_texts()] == ["plain", "behind g"]
    assert axes.get_xlabel() == "accuracy (per cent)\n40 images, L-inf 0.125, 7 draws"
    assert axes.get_xlim() == (0, 100)
    assert axes.yaxis_inverted()  # no attack is on top


def test_a_bar_of_nothing_says_so(drawn: list[Figure], tmp_path: Path) -> None:
    nothing = replace(by_hand()["plain"], attacks=[], worst=measured("worst", 0.004))
    accuracy_figure({"net": nothing}, tmp_path / "accuracy.png")
    assert [(t.get_text(), round(t.get_position()[1])) for t in drawn[0].axes[0].texts] == [("0.4", 1)]


def test_single_attacks_may_have_fewer_draws_and_the_worst_case_may_lack_one(
    drawn: list[Figure], tmp_path: Path
) -> None:
    few = by_hand()["behind g"]
    few = replace(few, settings={**few.settings, "nb_attack_draws": 3})
    accuracy_figure({"net": few}, tmp_path / "accuracy.png")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel().endswith("7 draws (single attacks: 3)")
    assert axes.get_yticklabels()[-1].get_text() == "worst, but for 1 attack"


def share(path: Path, colour: str) -> float:
    """Share of a picture's pixels that have this colour."""
    wanted = np.round(255 * np.array(mpl.colors.to_rgb(colour))).astype(int)
    return float((np.abs(pixels(path) - wanted).max(-1) <= 1).mean())


def test_longer_bars_fill_more_of_the_picture(tmp_path: Path) -> None:
    areas = []
    for value in (0.2, 0.4, 0.8):
        made = replace(
            by_hand()["plain"], clean=measured("no attack", value), attacks=[], worst=measured("worst", value)
        )
        accuracy_figure({"net": made}, tmp_path / f"{value}.png")
        areas.append(share(tmp_path / f"{value}.png", "C0"))
    # a whole bar's worth is twice 80 % of the axes; the legend's patch is the same in all
    assert areas[2] - areas[1] == pytest.approx(2 * (areas[1] - areas[0]), rel=0.1)
    assert areas[0] > 0.02
    assert share(tmp_path / "0.2.png", "C1") == 0


def test_a_single_number_makes_another_picture(tmp_path: Path) -> None:
    made = by_hand()
    accuracy_figure(made, tmp_path / "a.png")
    accuracy_figure(made, tmp_path / "again.png")
    made["plain"] = replace(made["plain"], worst=measured("worst", 0.19))
    accuracy_figure(made, tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "again.png"))
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


# ---- g(x)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_g_does_to_images(channels: int, drawn: list[Figure], tmp_path: Path) -> None:
    x, draws, expected = sets(channels=channels)
    assert transform_figure(x, draws, expected, tmp_path / "g.png") == tmp_path / "g.png"
    pixels(tmp_path / "g.png")
    (figure,) = drawn
    grid = np.array(figure.axes).reshape(2, 6)
    titles = ["x", "g(x), draw 1", "g(x), draw 2", "g(x), draw 3", "E[g(x)]", "E[g(x)] - x, normalised"]
    assert [[axes.get_title() for axes in row] for row in grid] == [titles, [""] * 6]
    assert float(draws.min()) < 0
    assert float(draws.max()) > 1
    for i, row in enumerate(grid):
        difference = expected[i] - x[i]
        shown = [x[i], *draws[:, i].clamp(0, 1), expected[i].clamp(0, 1), 0.5 + difference / difference.abs().max() / 2]
        for axes, image in zip(row, shown, strict=True):
            (picture,) = axes.images
            array = np.asarray(picture.get_array()).reshape(5, 6, channels)
            np.testing.assert_allclose(array, image.permute(1, 2, 0).numpy(), atol=1e-12)
            assert picture.get_clim() == (0, 1)
            assert not axes.axison


def test_colours_and_greys_arrive_in_the_file(tmp_path: Path) -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    teal = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    transform_figure(red, teal[None], red, tmp_path / "colours.png")
    reds, teals = (share(tmp_path / "colours.png", colour) for colour in ("#ff0000", "#00ffff"))
    assert teals > 0.1
    assert reds == pytest.approx(2 * teals, rel=0.05)  # x and E[g(x)], beside one draw
    dark = torch.full((1, 1, 4, 4), 0.2)
    transform_figure(dark, dark[None], dark, tmp_path / "greys.png")
    # grey levels are absolute, not stretched; no difference is the middle grey
    dark_area, middle_area = (share(tmp_path / "greys.png", colour) for colour in ("#333333", "#808080"))
    assert dark_area == pytest.approx(3 * middle_area, rel=0.05)
    assert middle_area > 0.1


def test_other_images_make_another_picture(tmp_path: Path) -> None:
    x, draws, expected = sets(n=1, draws=2)
    other = sets(n=1, draws=2, seed=5)
    calls = {"a": (x, draws, expected), "x": (other[0], draws, expected), "g": (x, draws.flip(0), expected)}
    for name, arguments in {**calls, "again": (x, draws, expected), "e": (x, draws, other[2])}.items():
        transform_figure(*arguments, tmp_path / f"{name}.png")
    found = {name: pixels(tmp_path / f"{name}.png") for name in ("a", "x", "g", "e", "again")}
    assert np.array_equal(found["a"], found["again"])
    assert not any(np.array_equal(found["a"], found[name]) for name in ("x", "g", "e"))


def test_images_that_need_gradients_or_one_draw(tmp_path: Path) -> None:
    x, draws, expected = sets(n=1, draws=1, channels=1)
    transform_figure(x.requires_grad_(), draws.float(), expected.requires_grad_(), tmp_path / "g.png")
    pixels(tmp_path / "g.png")


def test_normalised() -> None:
    difference = torch.tensor([[[-0.2, 0.0, 0.1]]], dtype=torch.float64)
    torch.testing.assert_close(normalised(difference).flatten().tolist(), [0.0, 0.5, 0.75])
    torch.testing.assert_close(normalised(-difference * 1e-6).flatten().tolist(), [1.0, 0.5, 0.25])
    assert torch.equal(normalised(torch.zeros(3, 2, 2)), torch.full((3, 2, 2), 0.5))


# ---- files


def draw_accuracy(path: Path) -> Path:
    return accuracy_figure(by_hand(), path)


def draw_transform(path: Path) -> Path:
    return transform_figure(*sets(), path)


both = pytest.mark.parametrize("draw", [draw_accuracy, draw_transform])


@both
def test_folders_are_made_and_files_replaced(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "figure.PNG"
    assert draw(path) == path
    path.write_bytes(b"old")
    draw(path)
    assert path.read_bytes().startswith(PNG)
    assert [found.name for found in path.parent.iterdir()] == ["figure.PNG"]


@both
@pytest.mark.parametrize(("ending", "signature"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_ending_chooses_the_format(
    draw: Callable[[Path], Path], ending: str, signature: bytes, tmp_path: Path
) -> None:
    assert draw(tmp_path / f"figure.{ending}").read_bytes().startswith(signature)


@both
@pytest.mark.parametrize("name", ["figure", "figure.txt", "figure.png.", ".png"])
def test_other_endings_are_refused(draw: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a picture's ending \(.*png.*\), got '"):
        draw(tmp_path / "new" / name)
    with pytest.raises(ValueError, match="expected a picture's ending"):
        check_picture(tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_s_name_is_given_back_as_a_path(tmp_path: Path) -> None:
    assert check_picture(str(tmp_path / "a.b.png")) == tmp_path / "a.b.png"
    assert list(tmp_path.iterdir()) == []


SHAPES: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "draws of fewer images": lambda x, g, e: (x, g[:, :1], e),
    "expectation of another size": lambda x, g, e: (x, g, e[..., :3]),
    "expectation of fewer images": lambda x, g, e: (x, g, e[:1]),
    "two channels": lambda x, g, e: (x[:, :2], g[:, :, :2], e[:, :2]),
    "no images": lambda x, g, e: (x[:0], g[:, :0], e[:0]),
    "no batch": lambda x, g, e: (x[0], g, e),
}


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_images_write_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, IndexError, TypeError, RuntimeError)):
        transform_figure(*SHAPES[name](*sets()), tmp_path / "g.png")
    assert list(tmp_path.iterdir()) == []


# ---- global state


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 7.0, "image.cmap": "jet"}):
        before = mpl.rcParams.copy()
        draw_accuracy(tmp_path / "a.png")
        draw_transform(tmp_path / "g.png")
        assert mpl.rcParams.copy() == before


def test_no_pyplot_and_no_display_needed(tmp_path: Path) -> None:
    by_hand()["plain"].save(tmp_path / "record.json")
    program = (
        "import sys; from art_advtransform.figures import accuracy_figure; from art_advtransform.records import Evaluation; "
        "accuracy_figure({'net': Evaluation.load(sys.argv[1])}, sys.argv[2]); print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "record.json"), str(tmp_path / "a.png")]
    environment = {**os.environ, "MPLBACKEND": "TkAgg"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
    pixels(tmp_path / "a.png")


def test_shapes_that_do_not_belong_together(tmp_path: Path) -> None:
    x, draws = torch.rand(2, 1, 4, 4), torch.rand(3, 2, 1, 4, 4)
    path = tmp_path / "figure.png"
    for bad_draws, bad_expected, what in ((draws, x[:1], "expected"), (draws[..., :3], x, "draws")):
        with pytest.raises(ValueError, match=f"expected {what} of images of shape "):
            transform_figure(x, bad_draws, bad_expected, path)
    with pytest.raises(ValueError, match="finite"):
        transform_figure(x, draws, x / 0, path)
    assert not path.exists()
