"""What the options of `evaluate` and `diagnose` become: arguments of evaluate_nets, and the case that is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from art_advtransform import cli
from art_advtransform.config import ThreatModel
from art_advtransform.datasets import digits
from art_advtransform.diagnostics.paths import eot_pgd, margin_pgd
from art_advtransform.evaluate_nets import DEFENDED, UNDEFENDED
from art_advtransform.options import counted_by
from art_advtransform.recipes import DIGITS_THREAT

pytestmark = pytest.mark.usefixtures("elsewhere")


class CalledError(Exception):
    """Ends a command where its work would begin."""


def called(function: str, command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the command hands on to ``function``, which is not run."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, options))
        raise CalledError

    monkeypatch.setattr(function, recorded)
    result = CliRunner().invoke(cli.app, command.split())
    assert isinstance(result.exception, CalledError), (result.output, result.exception)
    (call,) = calls
    return call


# ---- evaluate


def evaluated(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return called("art_advtransform.evaluate_nets.evaluate_nets", f"evaluate {command}", monkeypatch)


def test_every_option_of_evaluate_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    (nets, data, threat, out), options = evaluated(
        "--preset strong --images 5 --skip 3 --draws 70 --attack-draws 60 --selection-draws 40 --budget 0.25 "
        "--chunk-size 9 --model defended --model undefended --eps 0.05 --seed 11 --f-b digits/surrogate --device cpu "
        "--out there --restart",
        monkeypatch,
    )
    assert (nets.names["undefended"], nets.names["f_b"]) == ("digits/undefended", "digits/surrogate")
    assert torch.equal(data.x, digits("test").sample(8).x[3:])
    assert (threat, out) == (ThreatModel(0.05), Path("there"))
    assert callable(options.pop("progress"))
    about = options.pop("about")
    assert (about["dataset"], about["skip"]) == ("digits", 3)
    assert options == {
        "preset": "strong",
        "models": [DEFENDED, UNDEFENDED],
        "device": torch.device("cpu"),
        "seed": 11,
        "nb_draws": 70,
        "nb_selection_draws": 40,
        "nb_confirmation_draws": 100,
        "nb_attack_draws": 60,
        "budget": 0.25,
        "chunk_size": 9,
        "restart": True,
    }


def test_evaluate_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    (nets, data, threat, out), options = evaluated("--device cpu", monkeypatch)
    assert nets.names["f_b"] == "digits/f_b-adversarial"
    assert torch.equal(data.x, digits("test").sample(100).x)
    assert (threat, out) == (DIGITS_THREAT, Path("runs/evaluate-digits"))
    assert {name: value for name, value in options.items() if name not in ("progress", "about", "device")} == {
        "preset": "quick",
        "models": None,
        "seed": 0,
        **counted_by("quick", None, None, None),
        "budget": 1.0,
        "chunk_size": 50,
        "restart": False,
    }


COUNTED = {
    ("quick", None, None, None): (30, 10, 20, 10),
    ("strong", None, None, None): (100, 20, 100, 20),
    ("quick", 70, None, None): (70, 10, 20, 10),
    ("quick", 7, None, None): (7, 10, 20, 7),  # an attack is scored by no more than the worst case
    ("quick", None, 25, None): (30, 10, 20, 25),
    ("quick", 7, 9, None): (7, 10, 20, 9),  # which evaluate refuses
    ("quick", None, None, 15): (30, 15, 20, 10),
    ("quick", None, None, 45): (30, 45, 45, 10),  # what confirms is no less than what chose
}


@pytest.mark.parametrize("asked", COUNTED)
def test_draws_that_are_given_and_those_of_the_preset(asked: tuple[str, int | None, int | None, int | None]) -> None:
    names = ("nb_draws", "nb_selection_draws", "nb_confirmation_draws", "nb_attack_draws")
    assert counted_by(*asked) == dict(zip(names, COUNTED[asked], strict=True))


# ---- diagnose


def diagnosed(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    arguments, options = called("art_advtransform.diagnosis.run_checks", f"diagnose {command}", monkeypatch)
    assert options == {}
    return arguments


def test_every_option_of_diagnose_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    case, about, out, checks, _ = diagnosed(
        "--images 5 --skip 3 --draws 7 --attack margin --max-iter 6 --eot-samples 4 --corners 77 --queries 88 "
        "--check 12 --check 3 --eps 0.05 --seed 9 --f-b digits/surrogate --device cpu --out there",
        monkeypatch,
    )
    test = digits("test").sample(8)
    assert torch.equal(case.x, test.x[3:])
    assert torch.equal(case.y, test.y[3:])
    assert (about["skip"], about["nets"]["f_b"], out, checks) == (3, "digits/surrogate", Path("there"), [12, 3])
    assert (case.threat, case.seed, case.attack) == (ThreatModel(0.05), 9, margin_pgd)
    assert (case.max_iter, case.eot_samples) == (6, 4)
    assert (case.nb_draws, case.nb_corners, case.nb_queries) == (7, 77, 88)
    assert case.found is None


def test_diagnose_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    case, about, out, checks, _ = diagnosed("--device cpu", monkeypatch)
    assert torch.equal(case.x, digits("test").sample(40).x)
    assert (about["skip"], out, checks) == (0, Path("runs/evaluate-digits"), None)
    assert (case.threat, case.seed, case.attack) == (DIGITS_THREAT, 0, eot_pgd)
    assert (case.max_iter, case.eot_samples) == (40, 10)
    assert (case.nb_draws, case.nb_corners, case.nb_queries) == (20, 10_000, 1000)
