"""TransformConfig and ThreatModel: defaults, and a clear message for every bad value."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest

from art_advtransform.config import ThreatModel, TransformConfig


def test_defaults_are_the_papers() -> None:
    config = TransformConfig()
    assert dataclasses.asdict(config) == {
        "eps": 0.2,
        "eps_step": None,
        "max_iter": 13,
        "objective": "least_likely",
        "random_start": True,
        "clip_values": None,
    }
    assert config.step == pytest.approx(0.02)


def test_step_follows_eps_unless_given() -> None:
    assert TransformConfig(eps=0.5).step == pytest.approx(0.05)
    assert TransformConfig(eps=0.5, eps_step=0.3).step == 0.3
    # a step longer than the ball is allowed: it ends in a corner
    assert TransformConfig(eps=0.1, eps_step=2).step == 2


def test_numbers_of_numpy_become_pythons() -> None:
    config = TransformConfig(eps=np.float32(0.25), eps_step=np.float64(0.5), max_iter=np.int64(3))
    assert (config.eps, config.eps_step, config.max_iter) == (0.25, 0.5, 3)
    numbers = [config.eps, config.eps_step, config.max_iter, ThreatModel(eps=np.float32(0.25)).eps]
    assert [type(number) for number in numbers] == [float, float, int, float]


@pytest.mark.parametrize("clip_values", [0.5, None])
def test_clip_values_that_are_no_pair(clip_values: Any) -> None:
    with pytest.raises(TypeError, match=r"expected clip_values as \(low, high\), got "):
        ThreatModel(clip_values=clip_values)


def test_clip_values_of_a_record() -> None:
    for kind in (ThreatModel, TransformConfig):
        assert kind(clip_values=[0, np.float32(1)]) == kind(clip_values=(0.0, 1.0))  # type: ignore[arg-type]
        assert str(kind(clip_values=[0, 1]).clip_values) == "(0.0, 1.0)"  # type: ignore[arg-type]


def test_threat_model_defaults() -> None:
    assert ThreatModel() == ThreatModel(eps=8 / 255, clip_values=(0.0, 1.0))


@pytest.mark.parametrize("config", [TransformConfig(), ThreatModel()])
def test_frozen(config: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.eps = 1.0


BAD_NUMBERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"eps": -0.1}, ValueError, "expected eps > 0, got -0.1"),
    ({"eps": 0}, ValueError, "expected eps > 0, got 0"),
    ({"eps": math.nan}, ValueError, "expected eps > 0, got nan"),
    ({"eps": math.inf}, ValueError, "expected eps > 0, got inf"),
    ({"eps": "0.2"}, TypeError, "expected eps to be a number, got str"),
    ({"eps": True}, TypeError, "expected eps to be a number, got bool"),
    ({"eps": None}, TypeError, "expected eps to be a number, got NoneType"),
]

BAD_STEPS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"eps_step": 0.0}, ValueError, "expected eps_step > 0, got 0.0"),
    ({"eps_step": -1}, ValueError, "expected eps_step > 0, got -1"),
    ({"eps_step": math.inf}, ValueError, "expected eps_step > 0, got inf"),
    ({"eps_step": [0.1]}, TypeError, "expected eps_step to be a number, got list"),
    ({"max_iter": 0}, ValueError, "expected max_iter >= 1, got 0"),
    ({"max_iter": -3}, ValueError, "expected max_iter >= 1, got -3"),
    ({"max_iter": 2.0}, TypeError, "expected max_iter to be an int, got float"),
    ({"max_iter": True}, TypeError, "expected max_iter to be an int, got bool"),
    ({"objective": "other"}, ValueError, "unknown objective 'other'; known: least_likely, most_likely"),
    ({"objective": None}, ValueError, "unknown objective None; known: least_likely, most_likely"),
]

BAD_CLIPS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"clip_values": clip}, ValueError, f"expected clip_values as (low, high) with low < high, got {clip}")
    for clip in [(1.0, 0.0), (0.5, 0.5), (0.0,), (0.0, 0.5, 1.0), (0.0, math.nan), (-math.inf, 1.0)]
]


def check_message(kind: type[Any], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        kind(**options)


@pytest.mark.parametrize(("options", "error", "message"), [*BAD_NUMBERS, *BAD_STEPS, *BAD_CLIPS])
def test_bad_transform_config(options: dict[str, Any], error: type[Exception], message: str) -> None:
    check_message(TransformConfig, options, error, message)


@pytest.mark.parametrize(("options", "error", "message"), [*BAD_NUMBERS, *BAD_CLIPS])
def test_bad_threat_model(options: dict[str, Any], error: type[Exception], message: str) -> None:
    check_message(ThreatModel, options, error, message)
