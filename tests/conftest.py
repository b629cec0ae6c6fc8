"""Shared fixtures: global random state is put back after every test, and real data are optional."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from rich.console import Console

from art_advtransform.randomness import global_seed


@pytest.fixture(autouse=True)
def _same_random_state() -> Iterator[None]:
    """No test depends on which ran before it."""
    with global_seed(0):
        yield


@pytest.fixture(scope="session")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where archives are decoded to, once for all tests: a folder of their own, not the user's cache."""
    return Path(os.environ.get("ART_ADVTRANSFORM_CACHE") or tmp_path_factory.mktemp("decoded"))


@pytest.fixture
def data_root(decoded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not given."""
    root = os.environ.get("ART_ADVTRANSFORM_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs real data: set ART_ADVTRANSFORM_DATA to their folder")
    monkeypatch.setenv("ART_ADVTRANSFORM_CACHE", str(decoded))
    return Path(root)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults such as ./runs and ./data are in the test's own folder, and tables are wide enough not to fold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ART_ADVTRANSFORM_DATA", raising=False)
    monkeypatch.setattr("art_advtransform.terminal.console", Console(width=160))


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Its precision is one for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    made: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> None:
        made.append(self)
        original(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return made
