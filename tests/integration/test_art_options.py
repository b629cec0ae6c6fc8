"""Options of the ART preprocessors reach g."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from art_advtransform import AdversarialTransform, EoTAdversarialTransform, LLPGDTransform, TransformConfig
from tests.integration.nets import problem

OPTIONS: list[dict[str, Any]] = [
    {"eps": 0.1},
    {"eps_step": 0.05},
    {"max_iter": 2},
    {"objective": "most_likely"},
    {"clip_values": (0.0, 1.0)},
]
ALL: dict[str, Any] = {name: value for option in OPTIONS for name, value in option.items()}


@pytest.mark.parametrize("kind", [AdversarialTransform, EoTAdversarialTransform])
def test_all_options_of_g_reach_it(kind: type[AdversarialTransform]) -> None:
    f_b = problem().f_b
    assert kind(f_b, device_type="cpu").transform.config == TransformConfig()
    g = kind(f_b, **ALL, random_start=False, device_type="cpu")
    assert g.transform.config == TransformConfig(0.1, 0.05, 2, "most_likely", False, (0.0, 1.0))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_each_of_them_alone_is_another_g(option: dict[str, Any]) -> None:
    task = problem()
    plain, found = (
        AdversarialTransform(task.f_b, **chosen, random_start=False, device_type="cpu").forward(task.x)[0]
        for chosen in ({}, option)
    )
    assert torch.equal(found, LLPGDTransform(task.f_b, TransformConfig(**option, random_start=False))(task.x))
    assert not torch.equal(found, plain)
