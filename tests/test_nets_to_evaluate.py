"""Which nets an evaluation takes along, and what each is there for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import ImageSet
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluate_nets import ADVERSARIAL, BARE, DEFENDED, FIXED, UNDEFENDED, Nets, evaluate_nets
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import BUNDLED, load_pretrained
from tests.evaluations import THREAT, X, Y
from tests.models import same_weights
from tests.problems import linear_net


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


# ---- what each is there for

ROLES = {
    "undefended": "undefended",
    "f_a": "f_a-defended",
    "f_b": "f_b-adversarial",
    "adversarial": "adversarial",
    "surrogate": "surrogate",
    "imitation": "imitation",
    "twin": "f_a-defended-2",
}


def test_every_net_has_its_role() -> None:
    nets = Nets.load("digits")
    assert nets.names == {("f_b" if role == "f_b" else name): f"digits/{name}" for role, name in ROLES.items()}
    for role, name in ROLES.items():
        assert same_weights(getattr(nets, role), load_pretrained(f"digits/{name}"))


@pytest.fixture
def told_apart() -> Nets:
    """Nets that are all different."""
    nets: dict[str, Any] = {role: linear_net(torch.full((2, 4), float(k))) for k, role in enumerate(ROLES)}
    return Nets(**nets, names={"f_a": "mine"})


def test_models_are_of_the_nets_that_they_are_named_after(told_apart: Nets) -> None:
    models = told_apart.models()
    assert list(models) == [UNDEFENDED, ADVERSARIAL, BARE, DEFENDED, FIXED]
    alone = {UNDEFENDED: told_apart.undefended, ADVERSARIAL: told_apart.adversarial, BARE: told_apart.f_a}
    for name, net in alone.items():
        assert models[name].classifier is net
        assert models[name].transform is None
    for name in (DEFENDED, FIXED):
        assert models[name].classifier is told_apart.f_a
        g = models[name].transform
        assert g is not None
        assert network_identity(g.model) == network_identity(LLPGDTransform(told_apart.f_b).model)


def test_every_model_is_attacked_with_what_the_nets_have(
    told_apart: Nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, tuple[DefendedModel, tuple[Any, ...], dict[str, Any]]] = {}

    def recorded(model: DefendedModel, *arguments: Any, **options: Any) -> None:
        calls[options["about"]["model"]] = model, arguments, options

    monkeypatch.setattr("art_advtransform.evaluate_nets.evaluate", recorded)
    monkeypatch.setattr("art_advtransform.evaluate_nets._save_examples", lambda *_: None)
    data, names = ImageSet("toy", X, Y, ("a", "b")), list(told_apart.models())
    evaluate_nets(
        told_apart, data, THREAT, tmp_path, preset="smoke", models=names, about={"skip": 3}, seed=5, chunk_size=4
    )
    assert list(calls) == names
    attackers: dict[str, nn.Module | None] = {
        "surrogate": told_apart.surrogate,
        UNDEFENDED: told_apart.undefended,
        ADVERSARIAL: told_apart.adversarial,
    }
    for name, (model, arguments, options) in calls.items():
        assert model.classifier is told_apart.models()[name].classifier
        assert (model.transform is None) == (name not in (DEFENDED, FIXED))
        assert arguments == (data.x, data.y, "smoke", THREAT)
        assert options["surrogates"] == {role: net for role, net in attackers.items() if role != name}
        assert (options["imitation"], options["twin"]) == (told_apart.imitation, told_apart.twin)
        assert options["fixed_draw"] == (name == FIXED)
        assert options["about"] == {"skip": 3, "model": name, "nets": {"f_a": "mine"}}
        assert (options["seed"], options["chunk_size"]) == (5, 4)
    assert len({options["out"] for _, _, options in calls.values()}) == len(names)
