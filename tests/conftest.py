"""Shared fixtures: global random state is put back after every test, and real data are optional."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_state() -> Iterator[None]:
    """No test depends on which ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not given."""
    root = os.environ.get("ART_ADVTRANSFORM_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs real data: set ART_ADVTRANSFORM_DATA to their folder")
    return Path(root)
