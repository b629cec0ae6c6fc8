"""Attacks that write where they shouldn't, or return something else than an image for each image, win nothing by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.art_attacks import black_box_transfer, white_box_transfer
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.records import Evaluation
from tests.evaluations import THREAT, X, Y, darker, mean, run, set_preset, step
from tests.models import defended, digits_target


def in_place(target: Target) -> Tensor:
    """Moves the clean images, the labels and the images of others along with its own."""
    assert target.others is not None
    target.x.add_(0.5).clamp_(0, 1)
    target.y.zero_()
    target.others.zero_()
    return target.x


def test_what_an_attack_writes_into_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = X.clone(), Y.clone()
    set_preset(monkeypatch, cheat=in_place, honest=step)
    result = run(x=x, y=y)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    cheat, honest = result.attacks
    # projected from where it went, but on the ball around the true image
    assert cheat.max_distance == pytest.approx(THREAT.eps)
    set_preset(monkeypatch, other=darker, honest=step)
    assert run().attacks[1].per_image == honest.per_image


SHAPES = {
    "one image for all": lambda t: t.x[:1],
    "a pixel for an image": lambda t: t.x[:, :, :1, :1],
    "each image twice": lambda t: torch.cat([t.x, t.x]),
    "no channels": lambda t: t.x[:, 0],
}


@pytest.mark.parametrize("name", SHAPES)
def test_another_shape_is_a_failed_attack(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_preset(monkeypatch, wrong=SHAPES[name], right=darker)
    result = run()
    assert result.attacks[0].problem.startswith(
        "failed on 3 of 3 chunks of images: ValueError: expected attacked images of shape (4, 1, 2, 2), got ("
    )
    assert result.attacks[0].mean is None
    assert mean(result.attacks[1]) >= 0


@pytest.mark.parametrize("attack", [white_box_transfer(2), black_box_transfer(2)])
def test_gradients_that_were_there_stay(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    target = digits_target(defended(), 3)
    nets = [target.defended.classifier, *target.surrogates.values()]
    marks = [(p, torch.full_like(p, 2.0)) for net in nets for p in net.parameters()]
    for parameter, mark in marks:
        parameter.grad = mark
    monkeypatch.setitem(PRESETS, "mine", lambda: [attack])
    run(target.defended, target.x, target.y, threat=target.threat, surrogates=target.surrogates)
    assert all(parameter.grad is mark and bool((mark == 2).all()) for parameter, mark in marks)


def test_a_record_that_is_read_again_is_the_one_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_preset(monkeypatch, a=darker)
    result = run(out=tmp_path, about={"dataset": "toy", "nets": {"f_b": "a net"}})
    assert result.path is not None
    again = Evaluation.load(result.path)
    assert again == result
    assert again.settings["dataset"] == "toy"
    assert len(again.settings["fingerprint"]) == 64
    set_preset(monkeypatch, a=step)
    assert run(seed=1).settings["fingerprint"] != result.settings["fingerprint"]
