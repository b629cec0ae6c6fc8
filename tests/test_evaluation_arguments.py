"""Evaluate: arguments that are refused before any work, and those that are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from art_advtransform.defended import DefendedModel
from tests.evaluations import Coin, X, Y, darker, drifting, run, set_preset, step, timeless
from tests.models import fake_attack


class Twice(nn.Module):
    """A net that returns more than logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no batch": ({"x": X[0]}, ValueError, r"shape \(n, C, H, W\)"),
    "integers": ({"x": torch.zeros(10, 1, 2, 2, dtype=torch.int64)}, TypeError, "floating-point"),
    "no tensor": ({"x": X.numpy()}, TypeError, "torch.Tensor"),
    "empty": ({"x": X[:0], "y": Y[:0]}, ValueError, "at least one image"),
    "NaN": ({"x": X * float("nan")}, ValueError, "finite"),
    "bytes": ({"x": X * 255}, ValueError, r"images in \[0\.0, 1\.0\]"),
    "below": ({"x": X - 0.5}, ValueError, r"images in \[0\.0, 1\.0\]"),
    "fewer labels": ({"y": Y[:9]}, ValueError, r"int64 tensor of shape \(10,\)"),
    "one-hot labels": ({"y": torch.eye(2, dtype=torch.int64)[Y]}, ValueError, "int64 tensor of shape"),
    "float labels": ({"y": Y.float()}, ValueError, "int64 tensor of shape"),
    "list of labels": ({"y": Y.tolist()}, ValueError, "int64 tensor of shape"),
    "class 2 of 2": ({"y": Y + 1}, ValueError, r"labels in \[0, 1\], got \[1, 2\]"),
    "class -1": ({"y": Y - 1}, ValueError, r"labels in \[0, 1\], got \[-1, 0\]"),
    "preset": ({"preset": "slow"}, ValueError, "unknown preset 'slow'"),
    "no draws": ({"nb_draws": 0}, ValueError, "expected nb_draws >= 1, got 0"),
    "half a draw": ({"nb_draws": 0.5}, TypeError, "expected nb_draws to be an int"),
    "no selection draws": ({"nb_selection_draws": 0}, ValueError, "nb_selection_draws >= 1"),
    "no chunks": ({"chunk_size": 0}, ValueError, "chunk_size >= 1"),
    "negative seed": ({"seed": -1}, ValueError, "seed >= 0"),
    "bare net": ({"model": Coin()}, TypeError, r"expected a DefendedModel .* got Coin"),
    "averaged": ({"model": DefendedModel(Coin(), None, eot_samples=2)}, ValueError, "eot_samples=1, got 2"),
    "budget of a list": (
        {"preset": [fake_attack("a", darker)], "budget": -7},
        ValueError,
        "expected budget > 0, got -7",
    ),
    "budget of attacks of one's own": (
        {"preset": [fake_attack("a", darker)], "budget": 0.1},
        ValueError,
        r"expected budget 1 for attacks of your own, got 0\.1",
    ),
    "two results": (
        {"model": DefendedModel(Twice(), None)},
        ValueError,
        r"expected f_a to return logits \(n, K\), got tuple",
    ),
    "number for a budget": ({"threat": 0.1}, TypeError, "ThreatModel"),
    "name for h": ({"imitation": "h"}, TypeError, "expected imitation to be a torch.nn.Module, got str"),
    "two of a name": ({"preset": [fake_attack("a", darker)] * 2}, ValueError, "names of their own, got 'a' and 'a'"),
    "one file for two": (
        {"preset": [fake_attack("PGD: 5", darker), fake_attack("PGD 5", darker)]},
        ValueError,
        "names of their own, got 'PGD 5' and 'PGD: 5'",
    ),
    "the name of no attack": ({"preset": [fake_attack("No attack", darker)]}, ValueError, "and 'no attack'"),
    "the name of the worst": ({"preset": [fake_attack("per-image worst case", darker)]}, ValueError, "of their own"),
    "a name without letters": ({"preset": [fake_attack("--", darker)]}, ValueError, "names of their own, got '--'"),
    "more draws for attacks": ({"nb_attack_draws": 13}, ValueError, "nb_attack_draws <= nb_draws, got 13 and 12"),
    "functions for attacks": ({"preset": [darker]}, TypeError, "expected attacks as Attack entries, got function"),
    "net for surrogates": ({"surrogates": Coin()}, TypeError, "mapping of names to networks"),
    "name for a surrogate": ({"surrogates": {"a": "b"}}, TypeError, "mapping of names to networks"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_before_any_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, error, message = BAD[name]
    set_preset(monkeypatch, a=darker)
    with pytest.raises(error, match=message):
        run(**{"out": tmp_path / "out", **wrong})
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_images_that_want_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=step)
    expected = timeless(run(seed=3))
    counts = {
        "nb_draws": np.int64(12),
        "nb_selection_draws": np.int32(5),
        "seed": np.int64(3),
        "chunk_size": np.int64(4),
    }
    found = run(None, X.clone().requires_grad_(), out=tmp_path, **counts)
    assert (found.attacks[0].problem, timeless(found)) == ("", expected)


def test_a_frozen_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=darker)
    with drifting(Coin()).frozen(0) as model, pytest.raises(ValueError, match="fresh draws"):
        run(model)
