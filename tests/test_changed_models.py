"""A folder of an evaluation tells a subclass, or a hook, from another: they are part of what was attacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.config import TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnosis import settings_of
from art_advtransform.layer import LLPGDTransform
from art_advtransform.plan import changed_model
from tests.cases import digits_case
from tests.evaluations import Coin, darker, drifting, mean, run, set_preset
from tests.problems import linear_net


class Shifted(DefendedModel):
    """Logits of the first class moved by ``by``."""

    by = 0.0

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        return super().forward(x, start) + torch.tensor([self.by, 0.0])


class Dark(LLPGDTransform):
    """Half as bright."""

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        g: Tensor = super().forward(x, start)
        return g / 2


def shifted(by: float) -> DefendedModel:
    usual = drifting(Coin())
    model = Shifted(usual.classifier, usual.transform)
    model.by = by
    return model


def hooked(by: float) -> DefendedModel:
    model = drifting(Coin())
    model.register_forward_hook(lambda module, inputs, outputs: outputs + torch.tensor([by, 0.0]))
    return model


def dark() -> DefendedModel:
    return DefendedModel(Coin(), Dark(linear_net(torch.zeros(2, 4)), TransformConfig(max_iter=2)))


MODELS: dict[str, Callable[[], DefendedModel]] = {
    "subclass": lambda: shifted(0.0),
    "its attribute": lambda: shifted(9.0),
    "hook": lambda: hooked(0.0),
    "what it holds": lambda: hooked(9.0),
    "subclass of g": dark,
}


def test_every_change_is_another_model_and_none_is_none() -> None:
    identities = [changed_model(make())["model"] for make in MODELS.values()]
    assert len(set(identities)) == len(MODELS)
    assert changed_model(drifting(Coin())) == changed_model(DefendedModel(Coin(), None)) == {}
    # of what its draws and calls leave behind nothing is in it
    model = shifted(1.0)
    before = changed_model(model)
    model(torch.rand(2, 1, 2, 2))
    assert changed_model(model) == before == changed_model(shifted(1.0))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_refuses_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=darker)
    first = run(drifting(Coin()), out=tmp_path)
    with pytest.raises(ValueError, match=r"holds another evaluation .*other model"):
        run(MODELS[name](), out=tmp_path)
    again = run(MODELS[name](), out=tmp_path, restart=True)
    assert "model" in again.settings["sha256"]
    assert again.settings["fingerprint"] == run(MODELS[name](), out=tmp_path).settings["fingerprint"]
    with pytest.raises(ValueError, match=r"holds another evaluation .*other model"):
        run(drifting(Coin()), out=tmp_path)
    assert "model" not in first.settings["sha256"]


def test_what_was_shifted_is_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, a=darker)
    labels = torch.zeros(10, dtype=torch.int64)
    assert mean(run(shifted(9.0), y=labels).worst) == 1  # the first class is right for all images
    assert mean(run(shifted(-9.0), y=labels).clean) == 0
    assert mean(run(hooked(9.0), y=labels).worst) == 1


def test_checks_are_of_one_model() -> None:
    case = digits_case()
    assert "model" not in settings_of(case, {})["sha256"]
    assert isinstance(case.defended, nn.Module)
    case.defended.register_forward_hook(lambda module, inputs, outputs: -outputs)
    assert "model" in settings_of(case, {})["sha256"]
