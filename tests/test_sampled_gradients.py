"""Finite differences and evolution strategies against brute force and closed-form answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from art_advtransform.backward import Draw
from art_advtransform.config import TransformConfig
from art_advtransform.gradients import Evolution, FiniteDifference
from art_advtransform.layer import LLPGDTransform
from art_advtransform.transform import ll_pgd, target_class
from tests.problems import LinearTwoClasses, conv_net, images, linear_two_classes, make_draw, seeded, start_for

# ---- finite differences (eq. 4)


def near_the_decision(n: int, h: float) -> tuple[LinearTwoClasses, Draw]:
    """Images so near to s(x) = 0 that x + h e_j crosses it for some j: there g_D jumps."""
    problem = linear_two_classes((1, 2, 3))
    x = images(n, (1, 2, 3), seed=2)
    w = problem.w
    # move along w until s(x) is a little below zero for odd images, above for even ones
    target = 0.6 * h * torch.tensor([1.0, -1.0]).repeat(n)[:n].view(-1, 1, 1, 1).double()
    x = x + (target - problem.margin(x)) * w / w.norm() ** 2
    return problem, make_draw(problem.net, x, start_for(x), TransformConfig())


def brute_force(draw: Draw, v: Tensor, h: float) -> Tensor:
    """(<v, g_D(x + h e_j)> - <v, g_D(x)>) / h for every coordinate, the label found anew at every point."""

    def g(z: Tensor, i: int) -> Tensor:
        y = target_class(draw.model, z, draw.config.objective)
        return ll_pgd(draw.model, z, y, draw.start[i : i + 1], draw.config)

    gradient = torch.zeros_like(v)
    for i in range(len(v)):
        x = draw.x[i : i + 1]
        for j in range(x.numel()):
            moved = x.clone()
            moved.view(-1)[j] += h
            gradient[i].view(-1)[j] = ((g(moved, i) - g(x, i)) * v[i]).sum() / h
    return gradient


@pytest.mark.parametrize("batch_size", [64, 4])
def test_finite_difference_is_eq_4(batch_size: int) -> None:
    h = 1 / 255
    problem, draw = near_the_decision(4, h)
    v = images(4, (1, 2, 3), seed=4) - 0.5
    expected = brute_force(draw, v, h)
    found = FiniteDifference(h).pullback(replace(draw, batch_size=batch_size), v)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    # coordinate j jumps where h w_j carries s(x) across zero
    crosses = torch.sign(problem.margin(draw.x)) != torch.sign(problem.margin(draw.x) + h * problem.w)
    assert 0 < int(crosses.sum()) < crosses.numel()
    assert torch.equal((found - v).abs() > 1, crosses)
    torch.testing.assert_close(found[~crosses], v[~crosses], rtol=0, atol=1e-9)


def test_subsampled_finite_difference_is_unbiased() -> None:
    h = 1 / 255
    _, draw = near_the_decision(2, h)
    v = images(2, (1, 2, 3), seed=4) - 0.5
    expected = FiniteDifference(h).pullback(draw, v)
    sampled = FiniteDifference(h, nb_samples=2, generator=seeded(0))
    draws = torch.stack([sampled.pullback(draw, v) for _ in range(900)])
    error = draws.std(0) / 30
    assert bool(((draws.mean(0) - expected).abs() <= 4 * error + 1e-9).all())
    assert float((expected - v).abs().max()) > 10 * float(error.max())  # the mean is told apart from the identity


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_finite_difference_of_colour_images_in_any_memory_format(memory_format: torch.memory_format) -> None:
    x = images(2)
    config = TransformConfig(max_iter=2)
    start, weight = start_for(x), images(2, seed=5)
    draw = make_draw(conv_net(), x, start, config)
    expected = FiniteDifference(0.02, nb_samples=7, generator=seeded(0)).pullback(draw, weight)
    assert float((expected - weight).abs().max()) > 0
    estimator = FiniteDifference(0.02, nb_samples=7, generator=seeded(0))
    z = x.contiguous(memory_format=memory_format).requires_grad_()
    g = LLPGDTransform(conv_net(), config, gradient=estimator)
    (g(z, start) * weight.contiguous(memory_format=memory_format)).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, expected)


# ---- evolution strategies: the gradient of the smoothed g, jumps included


def smoothed_answer(sigma: float, t: float) -> tuple[LinearTwoClasses, Tensor, TransformConfig, Tensor]:
    """An image t standard deviations from the decision of a linear f_b, and a v for which the jump outweighs the rest."""
    problem = linear_two_classes((1, 2, 2))
    x = images(1, (1, 2, 2))
    w = problem.w
    x = x + (t * sigma * w.norm() - problem.margin(x)) * w / w.norm() ** 2
    v = torch.sign(w)[None] * torch.tensor([1.0, 0.5, 0.8, 0.2]).view(1, 1, 2, 2)
    return problem, x, TransformConfig(eps=0.2, max_iter=20), v


@pytest.mark.parametrize("t", [0.0, 0.7, -1.2])
@pytest.mark.parametrize("sigma", [8 / 255, 2 / 255])
def test_evolution_has_the_gradient_of_the_smoothed_map(t: float, sigma: float) -> None:
    problem, x, config, v = smoothed_answer(sigma, t)
    n, pairs = 400, 50
    draw = make_draw(problem.net, x.repeat(n, 1, 1, 1), start_for(x.repeat(n, 1, 1, 1)), config)
    draws = Evolution(sigma, pairs, seeded(0)).pullback(replace(draw, batch_size=4096), v.repeat(n, 1, 1, 1))
    found, expected = draws.mean(0, keepdim=True), problem.smoothed_pullback(x, v, config.eps, sigma)
    assert float(F.cosine_similarity(found.flatten(), expected.flatten(), 0)) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.05)
    # the identity points the other way: what is found here is the jump
    assert float(F.cosine_similarity(v.flatten(), expected.flatten(), 0)) < 0
    # images of a batch draw noise of their own
    assert float((draws - found).abs().max()) > 0


def test_evolution_far_from_any_jump_is_the_identity() -> None:
    problem, x, _, v = smoothed_answer(0.01, t=50.0)
    # 13 steps still show where they started: both sides of a pair need the same D
    draw = make_draw(problem.net, x, start_for(x), TransformConfig())
    torch.testing.assert_close(Evolution(0.01, 5, seeded(0)).pullback(draw, v), v, rtol=0, atol=1e-12)


def test_evolution_error_shrinks_with_the_pairs() -> None:
    problem, x, config, v = smoothed_answer(0.03, t=0.5)
    expected = problem.smoothed_pullback(x, v, config.eps, 0.03)
    n = 64
    draw = make_draw(problem.net, x.repeat(n, 1, 1, 1), start_for(x.repeat(n, 1, 1, 1)), config)
    rms = [
        (Evolution(0.03, pairs, seeded(0)).pullback(draw, v.expand_as(draw.x)) - expected).square().mean().sqrt()
        for pairs in (4, 64)
    ]
    assert float(rms[0] / rms[1]) == pytest.approx(4, rel=0.35)  # as the square root of the pairs


@pytest.mark.parametrize("kind", [Evolution, FiniteDifference])
def test_sampled_rules_follow_their_generator(kind: Any) -> None:
    h = 1 / 255
    _, draw = near_the_decision(4, h)
    v = torch.ones_like(draw.x)

    def pullback(generator: torch.Generator | None) -> Tensor:
        found: Tensor = kind(h, nb_samples=2, generator=generator).pullback(draw, v)
        return found

    assert torch.equal(pullback(seeded(0)), pullback(seeded(0)))
    assert not torch.equal(pullback(seeded(0)), pullback(seeded(1)))
    assert not torch.equal(pullback(None), pullback(None))
