"""The arithmetic of g is its own: settings of the surroundings reach neither f_b nor its gradient, and stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn

from art_advtransform.arithmetic import _SWITCHES, full_precision
from art_advtransform.config import TransformConfig
from art_advtransform.layer import LLPGDTransform
from tests.problems import conv_net, images

CPU = torch.device("cpu")
LOOSE = {"tf32", "bf16"}


def settings() -> list[Any]:
    """All that may round, or sum in another order."""
    older: list[Any] = []
    for read in (lambda: cudnn.allow_tf32, lambda: cuda.matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            older.append(read())
        except RuntimeError:  # torch refuses to tell where newer switches say otherwise
            older.append("newer")
    return [[switch.fp32_precision for switch in _SWITCHES], older, cudnn.deterministic, cudnn.benchmark]


def are_strict(found: list[Any]) -> bool:
    newer, _, deterministic, benchmark = found
    return not LOOSE & set(newer) and deterministic and not benchmark


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    """Each test leaves torch's settings as they are by default."""
    yield
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, False, False
    for switch, usual in zip(_SWITCHES, ("tf32", "tf32", *["none"] * 4), strict=True):
        switch.fp32_precision = usual


def by_default() -> None:
    """As torch comes: TF32 in convolutions."""


def older_switches() -> None:
    torch.set_float32_matmul_precision("medium")
    cudnn.benchmark = True


def newer_switches() -> None:
    cuda.matmul.fp32_precision = "tf32"
    _SWITCHES[0].fp32_precision = "tf32"


def all_at_once() -> None:
    cudnn.allow_tf32 = False
    for switch in _SWITCHES:
        switch.fp32_precision = "tf32"


SURROUNDINGS = [by_default, older_switches, newer_switches, all_at_once]


class Watched(nn.Module):
    """Notes under which settings it computes, forward and backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[list[Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(settings())
        if x.requires_grad:
            x.register_hook(lambda _: self.seen.append(settings()))
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.skipif(not _SWITCHES, reason="torch has the older switches alone")
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("gradient", ["identity", "tanh"])
def test_g_and_its_gradient_round_as_float32(surroundings: Callable[[], None], gradient: str) -> None:
    surroundings()
    before = settings()
    assert not are_strict(before)
    g = LLPGDTransform(Watched(conv_net()), TransformConfig(0.1, 0.05, 3), gradient=gradient)
    watched = g.model.net
    assert isinstance(watched, Watched)
    x = images(2).requires_grad_()
    value = g(x)
    assert settings() == before
    forward = len(watched.seen)
    value.sum().backward()
    assert settings() == before
    assert len(watched.seen) > forward if gradient == "tanh" else len(watched.seen) == forward
    assert forward
    assert all(map(are_strict, watched.seen))


def test_the_older_switches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch before 2.9 has no others."""
    monkeypatch.setattr("art_advtransform.arithmetic._SWITCHES", [])
    torch.set_float32_matmul_precision("high")
    before = settings()
    with full_precision(CPU):
        assert not cudnn.allow_tf32
        assert not cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    assert settings() == before


def test_the_settings_come_back_after_an_error() -> None:
    before = settings()
    with pytest.raises(RuntimeError, match="f_b"), full_precision(CPU):
        raise RuntimeError("f_b")
    assert settings() == before


def test_threads_that_overlap() -> None:
    """The first to leave must not loosen the settings of the one that is inside; the last one restores them."""
    before, found = settings(), []
    inside, leave = threading.Event(), threading.Event()

    def second() -> None:
        with full_precision(CPU):
            inside.set()
            leave.wait(10)
            found.append(settings())

    thread = threading.Thread(target=second)
    with full_precision(CPU):
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join()
    assert list(map(are_strict, found)) == [True]
    assert settings() == before


def test_a_context_in_a_context() -> None:
    before = settings()
    with full_precision(CPU):
        with full_precision(CPU):
            pass
        assert are_strict(settings())
    assert settings() == before
