"""Which nets an evaluation takes along."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from art_advtransform.evaluate_nets import ADVERSARIAL, DEFENDED, UNDEFENDED, Nets
from art_advtransform.pretrained import BUNDLED, load_pretrained
from tests.models import same_weights


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of nets without a surrogate, and with a plain f_b (the digits' surrogate is one)."""
    for name in ("undefended", "f_a-defended", "f_b-adversarial"):
        shutil.copytree(BUNDLED / "digits" / name, tmp_path / name)
    shutil.copytree(BUNDLED / "digits" / "surrogate", tmp_path / "f_b-standard")
    return tmp_path


def test_a_plain_f_b_is_the_surrogate_where_there_is_no_other(home: Path) -> None:
    nets = Nets.load(str(home))
    assert nets.names["surrogate"] == f"{home}/f_b-standard"
    assert nets.surrogate is not None
    assert same_weights(nets.surrogate, load_pretrained("digits/surrogate"))
    assert list(nets.surrogates(DEFENDED)) == ["surrogate", UNDEFENDED]
    assert nets.adversarial is None
    assert ADVERSARIAL not in nets.models()


def test_a_surrogate_that_was_trained_for_it_comes_first(home: Path) -> None:
    shutil.copytree(BUNDLED / "digits" / "undefended", home / "surrogate")
    assert Nets.load(str(home)).names["surrogate"] == f"{home}/surrogate"


def test_what_g_works_on_is_no_surrogate(home: Path) -> None:
    assert Nets.load(str(home), f"{home}/f_b-standard").surrogate is None
