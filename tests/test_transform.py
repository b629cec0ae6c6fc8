"""LL-PGD against closed-form answers, and its properties. Parity with the toolkits' PGD is in test_parity.py."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import Objective, TransformConfig
from art_advtransform.transform import (
    first_iterate,
    ll_pgd,
    loss_gradient,
    pgd_step,
    project,
    random_start,
    target_class,
)
from tests.problems import conv_net, images, linear_net, linear_two_classes, seeded, start_for, weights

PAPER = TransformConfig()


def g(net: nn.Module, x: Tensor, start: Tensor, config: TransformConfig) -> Tensor:
    return ll_pgd(net, x, target_class(net, x, config.objective), start, config)


@pytest.mark.parametrize("steps", [1, 2, 5, 13, 30])
@pytest.mark.parametrize("eps_step", [None, 0.003, 0.35])
def test_linear_closed_form(steps: int, eps_step: float | None) -> None:
    problem = linear_two_classes(shape=(2, 3, 3))
    config = TransformConfig(max_iter=steps, eps_step=eps_step)
    x = images(8, (2, 3, 3)) - 0.5
    start = start_for(x)
    assert problem.margin(x).min() < 0 < problem.margin(x).max()  # both labels occur
    torch.testing.assert_close(g(problem.net, x, start, config), problem.answer(x, start, config), rtol=0, atol=1e-14)


def test_many_steps_end_in_the_corner_whatever_the_start() -> None:
    problem = linear_two_classes(bias=5.0)  # the first class is likely everywhere: LL-PGD walks against w
    x = images(4, (1, 2, 2))
    ends = [g(problem.net, x, start_for(x, seed=seed), TransformConfig(max_iter=20)) for seed in (1, 2)]
    assert torch.equal(*ends)
    torch.testing.assert_close(ends[0], x - 0.2 * torch.sign(problem.w), rtol=0, atol=1e-14)


def test_thirteen_steps_do_not_forget_the_start() -> None:
    """13 a = 1.3 eps: pixels that start far on the wrong side don't reach the corner."""
    problem = linear_two_classes(bias=5.0)
    x = images(1, (1, 2, 2))
    start = 0.2 * torch.sign(problem.w)
    torch.testing.assert_close(g(problem.net, x, start, PAPER), x - 0.06 * torch.sign(problem.w), rtol=0, atol=1e-14)


def test_one_step_by_hand() -> None:
    """Weight rows e_0, -e_1, 0 at x = (0.9, 0.1): logits 0.9, -0.1, 0; y = 1; the step goes along w_1 - sum_k p_k w_k."""
    net = linear_net(torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64))
    x = torch.tensor([0.9, 0.1], dtype=torch.float64).view(1, 1, 1, 2)
    start = torch.tensor([0.01, -0.03], dtype=torch.float64).view(1, 1, 1, 2)
    assert target_class(net, x).tolist() == [1]
    moved = g(net, x, start, TransformConfig(max_iter=1))
    torch.testing.assert_close(moved, torch.tensor([[[[0.89, 0.05]]]], dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("nb_classes", [2, 7])
def test_loss_gradient_of_a_linear_net(nb_classes: int) -> None:
    """grad_z L(Wz, y) = W^T (softmax(Wz) - e_y), for every image by itself."""
    w = weights(nb_classes)
    net = linear_net(w)
    x, y = images(6, (1, 4, 4)), torch.arange(6) % nb_classes
    residual = (x.flatten(1) @ w.T).softmax(1) - F.one_hot(y, nb_classes)
    torch.testing.assert_close(loss_gradient(net, x, y).flatten(1), residual @ w)


def test_loss_gradient_leaves_no_trace() -> None:
    net = conv_net().requires_grad_(True)
    x = images(3).requires_grad_()
    u = loss_gradient(net, x, torch.tensor([0, 1, 2]))
    assert float(u.abs().max()) > 0
    assert not u.requires_grad
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())


def test_loss_gradient_works_where_gradients_are_off() -> None:
    net, x, y = conv_net(), images(2), torch.tensor([0, 1])
    expected = loss_gradient(net, x, y)
    with torch.no_grad():
        assert torch.equal(loss_gradient(net, x, y), expected)


def test_loss_gradient_can_be_differentiated() -> None:
    """u of the linear two-class net with y = 1 is p w with p = sigmoid(s): du/dz = p (1 - p) w w^T."""
    problem = linear_two_classes()
    x = images(1, (1, 2, 2)).requires_grad_()
    u = loss_gradient(problem.net, x, torch.tensor([1]), create_graph=True)
    v = images(1, (1, 2, 2), seed=3)
    (slope,) = torch.autograd.grad(u, x, v)
    p = torch.sigmoid(problem.margin(x)).detach()
    torch.testing.assert_close(slope, p * (1 - p) * (problem.w * v).sum() * problem.w[None])


@pytest.mark.parametrize("objective", get_args(Objective))
def test_target_class(objective: Objective) -> None:
    net, x = conv_net(), images(32)
    found = target_class(net, x, objective)
    logits = net(x)
    extreme = logits.min(1) if objective == "least_likely" else logits.max(1)
    assert torch.equal(logits.gather(1, found[:, None])[:, 0], extreme.values)
    assert found.dtype == torch.int64
    assert len(found.unique()) > 1


def test_objectives_move_the_loss_their_way() -> None:
    net, x = conv_net(), images(16)
    for config, towards in ((PAPER, -1), (replace(PAPER, objective="most_likely"), 1)):
        y = target_class(net, x, config.objective)
        moved = ll_pgd(net, x, y, torch.zeros_like(x), config)
        change = F.cross_entropy(net(moved), y, reduction="none") - F.cross_entropy(net(x), y, reduction="none")
        assert bool((towards * change > 0).all())


def test_most_likely_on_two_classes_is_least_likely() -> None:
    """With two classes, away from the most likely one is towards the other."""
    problem, x = linear_two_classes(shape=(2, 3, 3)), images(8, (2, 3, 3)) - 0.5
    start = start_for(x)
    up = g(problem.net, x, start, replace(PAPER, objective="most_likely"))
    assert torch.equal(up, g(problem.net, x, start, PAPER))


def test_projection_is_eq_8() -> None:
    x = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    z = torch.tensor([0.9, 0.6, 0.1, 0.35], dtype=torch.float64).view(1, 1, 2, 2)
    expected = torch.tensor([0.7, 0.6, 0.3, 0.35], dtype=torch.float64).view(1, 1, 2, 2)
    torch.testing.assert_close(project(z, x, PAPER), expected, rtol=0, atol=1e-15)
    clipped = project(z, x, replace(PAPER, clip_values=(0.0, 0.65)))
    torch.testing.assert_close(clipped, expected.clamp(0, 0.65), rtol=0, atol=1e-15)


def test_step_goes_through_what_it_is_given() -> None:
    x, u = images(2), images(2, seed=5) - 0.5
    z = x + 0.01
    stepped = pgd_step(z, x, u, PAPER, sign=torch.tanh, projection=lambda z, x, config: 2 * z)
    torch.testing.assert_close(stepped, 2 * (z - 0.02 * torch.tanh(u)))


def test_no_clip_unless_asked() -> None:
    problem = linear_two_classes(bias=5.0)
    x = torch.full((1, 1, 2, 2), 0.05, dtype=torch.float64)
    start = torch.zeros_like(x)
    free = g(problem.net, x, start, TransformConfig(max_iter=20))
    assert float(free.min()) == pytest.approx(-0.15)  # g(x) may leave [0, 1]
    kept = g(problem.net, x, start, TransformConfig(max_iter=20, clip_values=(0.0, 1.0)))
    torch.testing.assert_close(kept, free.clamp(0, 1))


def test_first_iterate_is_clipped_too() -> None:
    x, start = images(2), start_for(images(2))
    torch.testing.assert_close(first_iterate(x, start, PAPER), x + start)
    clipped = first_iterate(x, start, replace(PAPER, clip_values=(0.4, 0.6)))
    torch.testing.assert_close(clipped, (x + start).clamp(0.4, 0.6))


def test_trajectory_holds_the_iterates() -> None:
    problem, x = linear_two_classes(), images(3, (1, 2, 2))
    start, config = start_for(x), TransformConfig(max_iter=4)
    iterates: list[Tensor] = []
    end = ll_pgd(problem.net, x, target_class(problem.net, x), start, config, iterates)
    assert len(iterates) == 4
    torch.testing.assert_close(iterates[0], x + start)
    for steps, iterate in enumerate([*iterates[1:], end], start=1):
        torch.testing.assert_close(iterate, problem.answer(x, start, replace(config, max_iter=steps)))


def test_an_image_does_not_depend_on_its_batch() -> None:
    net, x = conv_net(), images(9)
    start = start_for(x)
    together = g(net, x, start, PAPER)
    alone = torch.cat([g(net, x[i : i + 1], start[i : i + 1], PAPER) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    # a mean of the losses would shrink the gradient with the batch; its scale is part of the smooth backward rules
    y = target_class(net, x)
    torch.testing.assert_close(loss_gradient(net, x, y)[:1], loss_gradient(net, x[:1], y[:1]), rtol=1e-9, atol=1e-15)


def test_random_start_is_uniform_in_the_ball() -> None:
    x = torch.zeros(200, 3, 8, 8)
    start = random_start(x, 0.2, seeded(0))
    assert start.shape == x.shape
    assert float(start.abs().max()) <= 0.2
    counts = torch.histc(start, bins=10, min=-0.2, max=0.2)
    assert float((counts / start.numel() - 0.1).abs().max()) < 0.006  # four standard errors of a bin's share


def test_random_start_draws_for_every_pixel() -> None:
    start = random_start(torch.zeros(4, 3, 8, 8), 0.2, seeded(0))
    assert len(start.unique()) > 0.99 * start.numel()


def test_random_start_comes_from_the_generator_alone() -> None:
    x = torch.zeros(2, 3, 4, 4)
    before = torch.get_rng_state()
    first = random_start(x, 0.2, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(random_start(x, 0.2, seeded(3)), first)
    generator = seeded(3)
    assert torch.equal(random_start(x, 0.2, generator), first)
    assert not torch.equal(random_start(x, 0.2, generator), first)
    torch.set_rng_state(before)
