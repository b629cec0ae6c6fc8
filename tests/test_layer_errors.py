"""LLPGDTransform refuses what it can't transform, with a message that says why."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from art_advtransform.config import TransformConfig
from art_advtransform.layer import LLPGDTransform
from tests.models import global_state_untouched
from tests.problems import conv_net, images, start_for


@pytest.fixture
def g() -> LLPGDTransform:
    return LLPGDTransform(conv_net())


BAD_IMAGES: list[tuple[Any, type[Exception], str]] = [
    ([[0.0]], TypeError, "expected images as a torch.Tensor, got list"),
    (images(2).numpy(), TypeError, "expected images as a torch.Tensor, got ndarray"),
    (
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        TypeError,
        "expected floating-point images in [0, 1], got torch.uint8",
    ),
    (
        torch.zeros(2, 3, 8, 8, dtype=torch.int64),
        TypeError,
        "expected floating-point images in [0, 1], got torch.int64",
    ),
    (torch.zeros(3, 8, 8), ValueError, "expected images of shape (n, C, H, W), got (3, 8, 8)"),
    (torch.zeros(1, 2, 3, 8, 8), ValueError, "expected images of shape (n, C, H, W), got (1, 2, 3, 8, 8)"),
    (torch.zeros(2, 1, 8, 8), ValueError, "f_b does not take images of shape (1, 8, 8): "),
    (torch.zeros(2, 3, 32, 32), ValueError, "f_b does not take images of shape (3, 32, 32): "),
    (torch.zeros(2, 3, 1, 1), ValueError, "f_b does not take images of shape (3, 1, 1): "),
    (torch.zeros(2, 3, 0, 0), ValueError, "expected images of shape (n, C, H, W), got (2, 3, 0, 0)"),
    (torch.full((2, 3, 8, 8), float("nan")), ValueError, "expected finite images, got NaN or infinite pixels"),
    (torch.full((2, 3, 8, 8), float("inf")), ValueError, "expected finite images, got NaN or infinite pixels"),
    # of another scale the transformation would move nothing, and the defence be off
    (255 * torch.ones(2, 3, 8, 8), ValueError, "expected images in [0, 1], got pixels in [255, 255]"),
    (torch.full((2, 3, 8, 8), -1.01), ValueError, "expected images in [0, 1], got pixels in [-1.01, -1.01]"),
    (torch.full((2, 3, 8, 8), 2.01), ValueError, "expected images in [0, 1], got pixels in [2.01, 2.01]"),
    # four fifths of a written digit are black
    (
        255 * (torch.arange(384).view(2, 3, 8, 8) % 5 == 0).float(),
        ValueError,
        "expected images in [0, 1], got pixels in [0, 255]",
    ),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_IMAGES)
def test_bad_images(g: LLPGDTransform, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        g(x)


def test_one_bad_pixel_is_found(g: LLPGDTransform) -> None:
    x = images(4)
    x[3, 2, 7, 7] = float("nan")
    with pytest.raises(ValueError, match="expected finite images"):
        g(x)


def test_images_that_an_attack_moves_out_of_range_are_taken(g: LLPGDTransform) -> None:
    for x in (images(2) * 3 - 1, torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), 2.0)):
        assert g(x).shape == x.shape


def test_a_scale_of_one_s_own_is_told_by_clip_values() -> None:
    g = LLPGDTransform(conv_net(), TransformConfig(eps=51, clip_values=(0, 255)))
    assert g(255 * images(2)).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=re.escape("expected images in [0, 255], got pixels in [511, 511]")):
        g(torch.full((2, 3, 8, 8), 511.0))


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.5])
def test_noise_of_evolution_strategies_is_taken(g: LLPGDTransform, eps: float) -> None:
    x = images(2).round()
    noise = eps * torch.randn(40, *x.shape, generator=torch.Generator().manual_seed(0))
    drawn = (x + noise).flatten(0, 1)
    assert float(drawn.max()) > 1 + 3 * eps
    assert g(drawn.to(x)).shape == drawn.shape


class Drawing(nn.Module):
    """Adds noise from global state to the logits."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net, self.scale = conv_net(), scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits + self.scale * torch.randn_like(logits)


@pytest.mark.parametrize("random_start", [True, False])
def test_an_f_b_that_draws_is_refused(random_start: bool) -> None:
    config = TransformConfig(max_iter=2, random_start=random_start)
    with pytest.raises(ValueError, match=re.escape("expected f_b to be a fixed map, got one that draws: g_D(x)")):
        LLPGDTransform(Drawing(0.1), config)(images(2))
    assert LLPGDTransform(Drawing(0.0), config)(images(2)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("draw", [torch.randn, lambda n: torch.tensor(np.random.randn(n)), lambda n: random.random()])
def test_an_f_b_that_draws_by_size_is_refused(draw: Callable[[int], Tensor | float]) -> None:
    # what does not hang on the image is drawn while f_b is traced, once for all
    class DrawingBySize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits.add(0.1 * draw(1))

    f_b = DrawingBySize()
    with global_state_untouched():
        g = LLPGDTransform(f_b, TransformConfig(max_iter=2))
    with pytest.raises(ValueError, match=re.escape("expected f_b to be a fixed map, got one that draws: g_D(x)")):
        g(images(2))


def test_an_f_b_that_writes_into_its_images_is_refused() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x.sub_(0.5).div_(0.25))
            return logits

    x = images(2)
    before = x.clone()
    with pytest.raises(ValueError, match="expected f_b to leave its images as they are, got one that writes into them"):
        LLPGDTransform(Normalising(), TransformConfig(max_iter=2))(x)
    assert torch.equal(x, before)


def test_a_wrong_shape_after_a_right_one(g: LLPGDTransform) -> None:
    g(images(1))
    with pytest.raises(ValueError, match=re.escape("f_b does not take images of shape (3, 16, 16)")):
        g(images(1, (3, 16, 16)))


OUTSIDE = "expected start inside [-0.2, 0.2]"
BAD_STARTS: list[tuple[Any, type[Exception], str]] = [
    (0.0, TypeError, "expected start to be a floating-point tensor"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "expected start to be a floating-point tensor"),
    (torch.zeros(3, 8, 8), ValueError, "expected start of shape (2, 3, 8, 8), got (3, 8, 8)"),
    (torch.zeros(1, 3, 8, 8), ValueError, "expected start of shape (2, 3, 8, 8), got (1, 3, 8, 8)"),
    (torch.full((2, 3, 8, 8), 0.2001), ValueError, OUTSIDE),
    (torch.full((2, 3, 8, 8), -0.3), ValueError, OUTSIDE),
    (torch.full((2, 3, 8, 8), float("nan")), ValueError, OUTSIDE),
    (torch.full((2, 3, 8, 8), float("inf")), ValueError, OUTSIDE),
]


@pytest.mark.parametrize(("start", "error", "message"), BAD_STARTS)
def test_bad_start(g: LLPGDTransform, start: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        g(images(2), start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.2, 0.05, 0.1])
def test_a_start_on_the_border_is_inside_in_any_precision(eps: float, dtype: torch.dtype) -> None:
    x = images(2)
    out = LLPGDTransform(conv_net(), TransformConfig(eps=eps))(x, torch.full(x.shape, eps, dtype=dtype))
    assert float((out - x).abs().max()) <= eps + 1e-12


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "expected batch_size >= 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "expected batch_size to be an int, got float"),
        ({"gradient": "bpda"}, ValueError, "unknown gradient 'bpda'; known: "),
        ({"gradient": None}, TypeError, "expected gradient to be a name or a GradientEstimator, got NoneType"),
        ({"config": 0.2}, TypeError, "expected config to be a TransformConfig, got float"),
        ({"config": {"eps": 0.2}}, TypeError, "expected config to be a TransformConfig, got dict"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        LLPGDTransform(conv_net(), **options)


class Fixed(nn.Module):
    """Weights that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(3 * 64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.get_buffer("weight")


def test_buffers_in_half_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected f_b in float32 or float64, but weight is torch\.bfloat16"):
        LLPGDTransform(Fixed().bfloat16())
    g = LLPGDTransform(Fixed())
    g.half()
    with pytest.raises(ValueError, match="expected f_b in float32 or float64"):
        g(images(2).float())


def test_half_precision_f_b_is_refused() -> None:
    with pytest.raises(ValueError, match="expected f_b in float32 or float64"):
        LLPGDTransform(conv_net().half())


def test_half_precision_afterwards_is_refused_too(g: LLPGDTransform) -> None:
    x = images(2)
    g(x)
    g.half()
    with pytest.raises(ValueError, match=r"expected f_b in float32 or float64, but .* is torch.float16"):
        g(x)


def test_f_b_must_be_a_module() -> None:
    wrong: Any = torch.sin
    with pytest.raises(TypeError, match=r"expected f_b to be a torch.nn.Module, got builtin_function_or_method"):
        LLPGDTransform(wrong)


class Returns(nn.Module):
    """A model whose output is not logits of its own precision."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Any:
        logits = self.layer(x.flatten(1))
        return {"tuple": (logits, x), "maps": x, "one": logits[:, :1], "double": logits.double()}[self.how]


@pytest.mark.parametrize("how", ["tuple", "maps", "one"])
def test_f_b_must_return_logits(how: str) -> None:
    message = r"f_b does not take images of shape \(3, 8, 8\): it must return logits \(n, K\) with K >= 2"
    with pytest.raises(ValueError, match=message):
        LLPGDTransform(Returns(how))(images(2, dtype=torch.float32))


def test_logits_of_another_precision() -> None:
    with pytest.raises(ValueError, match=r"expected logits of f_b in torch\.float32, got torch\.float64"):
        LLPGDTransform(Returns("double"))(images(2, dtype=torch.float32))


def test_a_start_from_a_longer_batch(g: LLPGDTransform) -> None:
    with pytest.raises(ValueError, match="expected start of shape"):
        g(images(2), start_for(images(3)))
