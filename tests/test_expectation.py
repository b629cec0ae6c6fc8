"""E[g(x)] and its distance to x, where f_b is linear and the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from art_advtransform.config import TransformConfig
from art_advtransform.expectation import distance, draws_of_g, expected_g
from art_advtransform.layer import LLPGDTransform
from tests.models import global_state_untouched
from tests.problems import conv_net, images, linear_two_classes, seeded

PAPER = TransformConfig()
LONG = TransformConfig(max_iter=21)  # 21 steps of eps / 10: every D ends in the corner
SHAPE = (1, 4, 4)


def linear_g(config: TransformConfig = PAPER, **options: Any) -> LLPGDTransform:
    return LLPGDTransform(linear_two_classes(SHAPE).net, config, **options)


def corner(x: Tensor) -> Tensor:
    """Which way g moves every pixel: -1 or 1."""
    problem = linear_two_classes(SHAPE)
    return -torch.sign(problem.w) * torch.sign(problem.margin(x))


# ---- closed form


def test_expectation_is_the_corner_where_every_draw_ends_there() -> None:
    x = images(6, SHAPE)
    assert len(corner(x).unique()) == 2
    expected = expected_g(linear_g(LONG), x, 3)
    torch.testing.assert_close(expected, x + 0.2 * corner(x))
    d = distance(expected, x, 3)
    assert (d.mean, d.rms, d.max) == pytest.approx((0.2, 0.2, 0.2))
    assert (d.nb_images, d.nb_draws) == (6, 3)


@pytest.mark.parametrize("steps", [5, 13])
def test_expectation_over_uniform_draws(steps: int) -> None:
    """d = max(-eps, D - c), c = N a, along the corner's direction: mean -eps + (2 eps - c)^2 / 4 eps over D ~ U(-eps, eps)."""
    x, eps, c = images(8, SHAPE), 0.2, steps * 0.02
    nb_draws = 256
    moved = (expected_g(linear_g(TransformConfig(max_iter=steps)), x, nb_draws) - x) * -corner(x)
    mean = -eps + (2 * eps - c) ** 2 / (4 * eps)
    spread = math.sqrt((2 * eps - c) ** 3 / (6 * eps) - (mean + eps) ** 2)
    assert float(moved.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(nb_draws * moved.numel()))
    # and every pixel by itself, that all draws move
    assert float((moved - mean).abs().max()) < 5 * spread / math.sqrt(nb_draws)


def test_draws_follow_the_steps_from_starts_that_fill_the_ball() -> None:
    x = images(4, SHAPE)
    # one step of a billionth: g(x) - x is the start D
    starts = draws_of_g(linear_g(TransformConfig(max_iter=1, eps_step=1e-9)), x, 32) - x
    assert float(starts.abs().max()) <= 0.2 + 1e-8
    counts = np.histogram(starts.numpy(), bins=4, range=(-0.2, 0.2))[0] / starts.numel()
    assert np.abs(counts - 0.25).max() < 4 * math.sqrt(0.25 * 0.75 / starts.numel())
    assert len(starts.unique()) == starts.numel()
    d = starts.numpy()
    for _ in range(13):
        d = np.clip(d + 0.02 * corner(x).numpy(), -0.2, 0.2)
    np.testing.assert_allclose(draws_of_g(linear_g(), x, 32).numpy(), x.numpy() + d, atol=1e-8)
    np.testing.assert_allclose(expected_g(linear_g(), x, 32).numpy(), x.numpy() + d.mean(0), atol=1e-8)


def test_no_random_start_is_one_answer() -> None:
    x, config = images(4, SHAPE), replace(PAPER, max_iter=3, random_start=False)
    draws = draws_of_g(linear_g(config), x, 3)
    assert torch.equal(draws[0], draws[1])
    torch.testing.assert_close(expected_g(linear_g(config), x, 5), x + 0.06 * corner(x))


# ---- distance


def test_distance_is_three_different_numbers() -> None:
    difference = [0.3, -0.4, 0.0, 0.1, 0.0, 0.0, -0.2, 0.0]
    x = images(2, (1, 2, 2))
    d = distance(x + torch.tensor(difference).view(2, 1, 2, 2), x, nb_draws=7)
    assert (d.mean, d.rms, d.max) == pytest.approx((0.125, math.sqrt(0.3 / 8), 0.4), rel=1e-6)
    assert (d.nb_images, d.nb_draws) == (2, 7)


def test_distance_by_a_loop_over_pixels() -> None:
    x = images(5)
    expected = expected_g(LLPGDTransform(conv_net()), x, 4)
    pixels = [float(a - b) for a, b in zip(expected.flatten(), x.flatten(), strict=True)]
    d = distance(expected, x, 4)
    assert d.mean == pytest.approx(sum(abs(p) for p in pixels) / len(pixels))
    assert d.rms == pytest.approx(math.sqrt(sum(p * p for p in pixels) / len(pixels)))
    assert d.max == pytest.approx(max(abs(p) for p in pixels))
    assert 0.05 < d.mean < d.rms < d.max <= 0.2 + 1e-12


def test_more_draws_leave_less_noise() -> None:
    x, g = images(8), LLPGDTransform(conv_net(), TransformConfig(max_iter=1, eps_step=1e-3))
    few, many = (distance(expected_g(g, x, n), x, n).rms for n in (1, 64))
    assert few == pytest.approx(0.2 / math.sqrt(3), rel=0.1)
    assert many == pytest.approx(few / 8, rel=0.15)


# ---- draws


def test_expectation_is_the_mean_of_the_draws() -> None:
    x, g = images(4), LLPGDTransform(conv_net())
    draws = draws_of_g(g, x, 6, seed=3)
    assert draws.shape == (6, 4, 3, 8, 8)
    assert all(not torch.equal(draws[0], other) for other in draws[1:])
    torch.testing.assert_close(expected_g(g, x, 6, seed=3), draws.mean(0), rtol=0, atol=1e-12)
    # so that what a figure shows are the first that its mean is over
    assert torch.equal(draws_of_g(g, x, 2, seed=3), draws[:2])
    assert torch.equal(draws_of_g(g, x[:2], 6, seed=3), draws[:, :2])


def test_the_seed_alone_decides() -> None:
    x = images(3)
    g = LLPGDTransform(conv_net(), generator=seeded(1))
    other = LLPGDTransform(conv_net(), generator=seeded(2))
    before = g.generator.get_state()
    with global_state_untouched():
        first = expected_g(g, x, 4, seed=5)
    assert torch.equal(g.generator.get_state(), before)
    assert torch.equal(expected_g(other, x, 4, seed=5), first)
    assert not torch.equal(expected_g(g, x, 4, seed=6), first)
    assert not torch.equal(draws_of_g(g, x, 1, seed=6), draws_of_g(g, x, 1, seed=5))


def test_batches_do_not_matter() -> None:
    x = images(7)
    whole, two = (expected_g(LLPGDTransform(conv_net(), batch_size=size), x, 3) for size in (7, 2))
    torch.testing.assert_close(whole, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_like_x_without_a_graph(dtype: torch.dtype) -> None:
    x = images(2, dtype=dtype).requires_grad_()
    g = LLPGDTransform(conv_net())
    for result in (expected_g(g, x, 2), draws_of_g(g, x, 2)[0]):
        assert result.shape == x.shape
        assert result.dtype == dtype
        assert not result.requires_grad
    assert x.grad is None


def test_progress_counts_the_draws() -> None:
    seen: list[tuple[int, int]] = []
    expected_g(linear_g(), images(2, SHAPE), 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# ---- bad input


@pytest.mark.parametrize("function", [expected_g, draws_of_g])
@pytest.mark.parametrize(
    ("x", "nb_draws", "error", "message"),
    [
        (images(2, SHAPE), 0, ValueError, "expected nb_draws >= 1, got 0"),
        (images(2, SHAPE), 2.0, TypeError, "expected nb_draws to be an int, got float"),
        (images(2, SHAPE)[0], 2, ValueError, r"expected images of shape \(n, C, H, W\), got \(1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 2, TypeError, "floating-point images"),
        (images(2, SHAPE) / 0, 2, ValueError, "NaN or infinite pixels"),
        (images(2, (1, 5, 5)), 2, ValueError, r"f_b does not take images of shape \(1, 5, 5\)"),
    ],
)
def test_bad_input(function: Any, x: Tensor, nb_draws: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(linear_g(), x, nb_draws)


def test_images_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"expected images as a torch\.Tensor, got list"):
        expected_g(linear_g(), [[0.5]], 2)  # type: ignore[arg-type]
