"""The worst images that are kept of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from art_advtransform.attacks.base import from_function
from art_advtransform.datasets import load_dataset
from art_advtransform.evaluate_nets import DEFENDED, Nets, evaluate_nets
from art_advtransform.recipes import DIGITS_THREAT
from benchmarks import kept_images


@pytest.mark.parametrize("left", [0.02, 0.5])
def test_they_are_the_worst_case_s_of_what_is_left(
    left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("digits", "test").sample(12, 5)
    attacks = [from_function("darker", lambda x, y: x - 0.125), from_function("inverted", lambda x, y: 1 - x)]
    made = evaluate_nets(
        Nets.load("digits"),
        data,
        DIGITS_THREAT,
        tmp_path,
        models=[DEFENDED],
        preset=attacks,
        about={"dataset": "digits", "skip": 5},
        nb_draws=5,
        nb_selection_draws=5,
        chunk_size=5,
    )[DEFENDED]
    monkeypatch.setattr(sys, "argv", ["kept_images", "--run", str(tmp_path / DEFENDED), "--left", str(left)])
    kept_images.main()
    found = load_file(tmp_path / DEFENDED / "kept.safetensors")
    rows = [i for i, share in enumerate(made.worst.per_image) if share > left]
    assert 0 < len(rows) < 12
    assert found["numbers"].tolist() == [5 + i for i in rows]
    x, eps = data.x[rows], DIGITS_THREAT.eps
    candidates = {
        "no attack": x,
        "darker": (x - eps).clamp(0, 1),
        "inverted": (1 - x).clamp(x - eps, x + eps),
    }
    names = [made.chosen[i] for i in rows]
    torch.testing.assert_close(found["images"], torch.stack([candidates[name][k] for k, name in enumerate(names)]))
    assert "no attack" not in names


def test_images_that_do_not_follow_one_another_are_refused(tmp_path: Path) -> None:
    data, about = load_dataset("digits", "test").sample(2), {"dataset": "digits", "numbers": [3, 9]}
    options: dict[str, Any] = {"models": [DEFENDED], "preset": [], "about": about, "nb_draws": 2}
    evaluate_nets(Nets.load("digits"), data, DIGITS_THREAT, tmp_path, **options)
    with pytest.raises(ValueError, match="expected a run on images that follow one another"):
        kept_images.kept(tmp_path / DEFENDED, 0.02)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kept_images.kept(tmp_path, 0.02)
