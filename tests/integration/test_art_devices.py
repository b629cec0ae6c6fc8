"""Which device AdversarialTransform chooses, on a machine with GPUs or without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from art_advtransform import AdversarialTransform, EoTAdversarialTransform
from art_advtransform.adapters import art_defence
from art_advtransform.frozen import FrozenModel, freeze
from art_advtransform.randomness import private_generator
from tests.integration.nets import Problem, problem


@pytest.fixture
def task() -> Problem:
    return problem(n=3)


@pytest.mark.parametrize("kind", [AdversarialTransform, EoTAdversarialTransform])
@pytest.mark.parametrize(
    ("options", "with_gpus", "wanted"),
    [
        ({}, True, "cuda:1"),
        ({"device_type": "gpu"}, True, "cuda:1"),
        ({"device_type": "cpu"}, True, "cpu"),
        ({}, False, "cpu"),
    ],
)
def test_device_type_is_the_preprocessors_own_choice(
    task: Problem, kind: Any, options: dict[str, str], with_gpus: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not ask the estimator: "gpu", ART's default, means the current CUDA device if there is one."""
    placed: dict[str, str] = {}

    def frozen(model: nn.Module, device: torch.device) -> FrozenModel:
        placed["f_b"] = str(device)
        return freeze(model, "cpu")

    def private(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
        placed["generator"] = str(device)
        return private_generator(generator, "cpu")

    monkeypatch.setattr(art_defence, "freeze", frozen)
    monkeypatch.setattr(art_defence, "private_generator", private)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: with_gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert str(kind(task.f_b, **options).device) == wanted
    assert placed == {"f_b": wanted, "generator": wanted}


def test_images_come_back_to_where_they_came_from(task: Problem) -> None:
    g = AdversarialTransform(task.f_b, device_type="cpu")
    assert g.device.type == g.model.device.type == g.generator.device.type == "cpu"
    assert g.forward(task.x)[0].device == task.x.device
