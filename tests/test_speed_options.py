"""Mixed precision and torch.compile: options for GPUs, whose code path runs on a CPU too."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.frozen import FrozenModel
from art_advtransform.gradients import Evolution, Reparameterized
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN, SmallVGG


@pytest.fixture
def f_b() -> nn.Module:
    torch.manual_seed(0)
    return SmallVGG(nb_classes=4, in_channels=1, input_size=8, widths=(4, 4, 4, 4), hidden=8).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """torch.compile without a C++ compiler; what was compiled."""
    compiled: list[nn.Module] = []
    real: Any = partial(torch.compile, backend="aot_eager")

    def compile_and_note(module: nn.Module) -> nn.Module:
        compiled.append(module)
        result: nn.Module = real(module)
        return result

    monkeypatch.setattr(torch, "compile", compile_and_note)
    return compiled


def test_autocast_computes_in_half_and_returns_single(f_b: nn.Module, x: Tensor) -> None:
    seen: list[torch.dtype] = []

    class Spy(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            seen.append(logits.dtype)
            return logits

    half = FrozenModel(Spy(f_b), autocast=torch.bfloat16, optimise=False)
    logits = half(x)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, f_b(x))
    assert torch.allclose(logits, f_b(x), atol=0.05)


@pytest.mark.parametrize("gradient", ["identity", "tanh", "evolution", "reparameterized"])
def test_a_callers_autocast_changes_nothing(gradient: str, x: Tensor) -> None:
    x.requires_grad_()
    start = torch.zeros_like(x)
    for seed in range(5):
        torch.manual_seed(seed)
        net = SmallVGG(nb_classes=4, in_channels=1, input_size=8, widths=(4, 4, 4, 4), hidden=8).eval()

        def made(net: nn.Module = net) -> LLPGDTransform:
            torch.manual_seed(9)
            rules: dict[str, Any] = {
                "evolution": Evolution(nb_samples=4, generator=torch.Generator().manual_seed(0)),
                "reparameterized": Reparameterized(FCN(1, 0.2)),
            }
            return LLPGDTransform(net, gradient=rules.get(gradient, gradient))

        value = made()(x, start)
        expected = torch.autograd.grad(value.square().sum(), x)[0]
        for when in ("all", "forward", "backward"):
            g = made()
            for _ in range(1 if gradient == "evolution" else 2):  # the first call tries f_b on one image
                with torch.autocast("cpu", torch.bfloat16, enabled=when != "backward"):
                    assert net(x).dtype == (torch.float32 if when == "backward" else torch.bfloat16)
                    found = g(x, start)
                    assert torch.equal(found, value)
                with torch.autocast("cpu", torch.bfloat16, enabled=when != "forward"):
                    actual = torch.autograd.grad(found.square().sum(), x)[0]
                torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("gradient", ["identity", "tanh"])
def test_transform_in_mixed_precision(f_b: nn.Module, x: Tensor, gradient: str) -> None:
    g = LLPGDTransform(FrozenModel(f_b, autocast=torch.bfloat16), gradient=gradient)
    x.requires_grad_()
    value = g(x, torch.zeros_like(x))
    value.sum().backward()
    assert value.dtype == torch.float32
    assert (value - x).abs().max() <= 0.2 + 1e-6
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_off_by_default(f_b: nn.Module, x: Tensor, compiler: list[nn.Module]) -> None:
    frozen = FrozenModel(f_b)
    LLPGDTransform(frozen)(x)
    assert compiled_is(frozen, compiler) is False
    assert frozen.autocast is None


def compiled_is(frozen: FrozenModel, compiler: list[nn.Module]) -> bool:
    return any(module is frozen for module in compiler)


def test_compiled_steps_give_the_same_g(f_b: nn.Module, x: Tensor, compiler: list[nn.Module]) -> None:
    frozen = FrozenModel(f_b.double(), compile=True)
    g = LLPGDTransform(frozen)
    start = torch.full_like(x, 0.05).double()
    assert torch.equal(g(x.double(), start), LLPGDTransform(f_b)(x.double(), start))
    assert compiled_is(frozen, compiler)
    assert len(list(frozen.parameters())) == len(list(FrozenModel(f_b).parameters()))


def test_unrolled_gradients_of_a_compiled_f_b(f_b: nn.Module, x: Tensor, compiler: list[nn.Module]) -> None:
    gradients = []
    for model in (FrozenModel(f_b.double(), compile=True), FrozenModel(f_b)):
        z = x.double().requires_grad_()
        LLPGDTransform(model, gradient="softsign")(z, torch.zeros_like(z)).sum().backward()
        assert z.grad is not None
        gradients.append(z.grad)
    assert compiler
    assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_compiled_model_copies_and_pickles(f_b: nn.Module, x: Tensor, compiler: list[nn.Module]) -> None:
    g = LLPGDTransform(FrozenModel(f_b, compile=True))
    start = torch.zeros_like(x)
    expected = g(x, start)
    for twin in (copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert torch.equal(twin(x, start), expected)
        assert compiled_is(twin.model, compiler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_autocast_to_another_precision_is_refused(f_b: nn.Module, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="expected autocast to be one of"):
        FrozenModel(f_b, autocast=dtype)
