"""The first convolution of an optimised f_b: the same value, and the same gradient by another sum."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.folding import _FirstConvolution
from art_advtransform.frozen import FrozenModel


def convolution(channels: int = 3, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, 5, 3, padding=1, bias=bias, dtype=torch.float64).requires_grad_(False)


def image(channels: int = 3, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def value_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    value = model(x)
    weights = torch.linspace(-1, 1, value.numel(), dtype=x.dtype).view_as(value)
    (gradient,) = torch.autograd.grad((value * weights).sum(), x)
    return value, gradient


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(2, 2), (6, 8), (5, 8), (6, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradient_are_the_convolutions(channels: int, size: tuple[int, int], bias: bool) -> None:
    plain = convolution(channels, bias=bias)
    x = image(channels, *size)
    expected, ours = value_and_gradient(plain, x), value_and_gradient(_FirstConvolution(plain), x)
    assert torch.equal(ours[0], expected[0])
    assert torch.allclose(ours[1], expected[1], rtol=0, atol=1e-13)


def test_second_derivatives() -> None:
    fast = _FirstConvolution(convolution())
    assert torch.autograd.gradcheck(fast, image())
    assert torch.autograd.gradgradcheck(fast, image())


def test_even_sizes_take_the_fast_way() -> None:
    fast = _FirstConvolution(convolution())
    assert "_BlockedGradient" in type(fast(image(3, 6, 8)).grad_fn).__name__
    assert "_BlockedGradient" not in type(fast(image(3, 5, 8)).grad_fn).__name__


@pytest.mark.parametrize(
    ("other", "replaced"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), True),
        (nn.Conv2d(5, 5, 3, padding=1), False),
        (nn.Conv2d(3, 5, 3), False),
        (nn.Conv2d(3, 5, 3, padding=1, stride=2), False),
        (nn.Conv2d(3, 5, 5, padding=1), False),
        (nn.Conv2d(3, 5, 3, padding=1, dilation=2), False),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), False),
        (nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv2d(3, 5, 3, padding="same"), False),
        (nn.ReLU(), False),
    ],
)
def test_only_such_a_convolution_is_replaced(other: nn.Module, replaced: bool) -> None:
    assert _FirstConvolution.replaces(other) is replaced


def test_only_the_one_that_sees_the_image() -> None:
    net = nn.Sequential(convolution(3), nn.ReLU(), nn.Conv2d(5, 3, 1).double(), convolution(3), nn.Flatten())
    found = [type(m).__name__ for m in FrozenModel(net).modules() if "Conv" in type(m).__name__]
    assert found == ["_FirstConvolution", "Conv2d", "Conv2d", "Conv2d"]


def test_moves_and_copies_with_the_model() -> None:
    fast = FrozenModel(nn.Sequential(convolution(), nn.Flatten()))
    x = image()
    expected = value_and_gradient(fast, x)[1]
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast).float().double()):
        assert torch.allclose(value_and_gradient(twin, x)[1], expected, atol=1e-6)
