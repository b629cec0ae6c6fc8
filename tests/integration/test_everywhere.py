"""What holds in every host: gradient checkpoints, inference mode, and the checks that AutoAttack runs before it starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from art_advtransform import DefendedModel, LLPGDTransform, TransformConfig
from art_advtransform.unrolled import Softsign, Tanh, Unrolled
from tests.integration.contract import HOSTS, Build
from tests.integration.nets import (
    CLASSES,
    CONFIG,
    Problem,
    images,
    logits_at,
    problem,
    seeded,
    starts,
    transformed,
)


@pytest.fixture
def task() -> Problem:
    return problem(n=4)


@pytest.fixture
def smooth_f_b() -> nn.Module:
    """Its second derivative, which unrolling needs, is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(6 * 36, CLASSES))
    return net.double()


def defended(task: Problem, seed: int | None = 0, **options: Any) -> DefendedModel:
    generator = None if seed is None else seeded(seed)
    return DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG, generator=generator), **options).eval()


def input_gradient(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (function(x) * v).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("rule", [Softsign, Tanh])
@pytest.mark.parametrize("options", [{}, {"projection": "mask"}, {"steps": 2}, {"trajectory": "smooth"}])
def test_checkpointed_unrolling_is_the_whole_graphs_gradient(
    smooth_f_b: nn.Module, rule: type[Unrolled], options: dict[str, Any]
) -> None:
    x, v = images(3).double(), images(3, seed=1).double()
    gradients = []
    for stepwise in (True, False):
        # drawn, not given: the backward pass has to know the D of its own forward pass
        g = LLPGDTransform(
            smooth_f_b,
            CONFIG,
            gradient=rule(temperature=1e-3, checkpoint=stepwise, **options),
            generator=seeded(0),
        )
        gradients.append(input_gradient(g, x, v))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert (gradients[0] - v).abs().max() > 1e-3, "the identity would pass too"


def test_a_transform_inside_a_checkpoint_needs_its_start_from_outside(smooth_f_b: nn.Module) -> None:
    """The recomputation would draw again, and the gradient would belong to another D than the value."""
    x, v = images(3).double(), images(3, seed=1).double()
    f_a = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 192), nn.Unflatten(1, (3, 8, 8))
    ).double()

    def through_checkpoint(g: LLPGDTransform, start: Tensor | None) -> Tensor:
        return input_gradient(
            lambda z: checkpoint(lambda a: f_a(g(a, start)), z, use_reentrant=False),
            x,
            v,
        )

    g = LLPGDTransform(smooth_f_b, CONFIG, generator=seeded(0))
    start = g.draw_start(x)
    expected = input_gradient(lambda z: f_a(g(z, start)), x, v)
    torch.testing.assert_close(through_checkpoint(g, start), expected)
    g.generator.manual_seed(0)
    assert not torch.allclose(through_checkpoint(g, None), expected, rtol=1e-3)


def test_checkpoint_with_an_inner_gradient_matches(smooth_f_b: nn.Module) -> None:
    """An inner ``autograd.grad(create_graph=True)`` inside a non-reentrant checkpoint, as in a differentiable step."""
    x, v = images(2).double(), images(2, seed=1).double()

    def step(z: Tensor) -> Tensor:
        loss = F.cross_entropy(smooth_f_b(z), torch.zeros(len(z), dtype=torch.long), reduction="sum")
        (u,) = torch.autograd.grad(loss, z, create_graph=True)
        return z - torch.tanh(u / 1e-3)

    plain = input_gradient(step, x, v)
    torch.testing.assert_close(input_gradient(lambda z: checkpoint(step, z, use_reentrant=False), x, v), plain)
    assert (plain - v).abs().max() > 1e-3


@pytest.mark.parametrize("host", sorted(HOSTS))
def test_inference_mode(task: Problem, host: str) -> None:
    build: Build = HOSTS[host]
    expected = build(task.f_a, task.f_b, seeded(0), 2).predict(task.x)
    inference = build(task.f_a, task.f_b, seeded(0), 2)
    with torch.inference_mode():
        outputs = inference.predict(task.x.clone())
    assert torch.equal(outputs, expected)


def test_images_made_in_inference_mode_are_usable_outside(task: Problem) -> None:
    with torch.inference_mode():
        x = task.x.clone()
    assert x.is_inference()
    expected = logits_at(task.f_a, transformed(task.f_b, task.x, starts(task.x, 0)[0]))
    with torch.no_grad():
        torch.testing.assert_close(defended(task)(x), expected)


def calls_to(names: set[str], function: Callable[[], Any]) -> set[str]:
    """Which of ``names`` are called inside ``function``: how AutoAttack's ``check_dynamic`` finds a test-time optimisation."""
    found: set[str] = set()

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in names:
            found.add(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return found


def test_autoattacks_check_for_dynamic_defences_fires(task: Problem) -> None:
    """A defence that optimises at test time: static attacks of it prove little, and a report has to say so."""
    names = {"grad", "backward", "_make_grads"}
    with torch.no_grad():
        assert calls_to(names, lambda: defended(task)(task.x)) >= {"grad"}
        assert calls_to(names, lambda: DefendedModel(task.f_a, None)(task.x)) == set()


def test_autoattacks_check_for_randomised_models_fires(task: Problem) -> None:
    """It compares outputs of two calls; on a frozen draw, or without a random start, there is nothing to find."""
    model = defended(task, seed=None)
    still = DefendedModel(task.f_a, LLPGDTransform(task.f_b, TransformConfig(max_iter=4, random_start=False))).eval()
    with torch.no_grad():
        assert not torch.allclose(model(task.x), model(task.x), atol=1e-3)
        assert model.randomized
        with model.frozen(seed=0):
            assert torch.equal(model(task.x), model(task.x))
            assert not model.randomized
        assert torch.equal(still(task.x), still(task.x))
        assert not still.randomized


def test_robustbench_contract(task: Problem) -> None:
    """Logits, not probabilities, of shape (n, K), for images in [0, 1]; a gradient that is nowhere zero for a whole image."""
    model = defended(task)
    for n in (1, 4):
        assert model(task.x[:n]).shape == (n, CLASSES)
    logits = model(task.x).detach()
    assert not torch.allclose(logits.sum(1), torch.ones(4), atol=1e-2)
    assert logits.min() < 0
    x = task.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), task.y, reduction="sum"), x)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_success_on_one_draw_is_not_success_on_another() -> None:
    """So that a count which drops an image at the first draw that misclassifies it, as AutoAttack's, falls with every look."""
    model = defended(problem(n=32), seed=0)
    x, y = problem(n=32).x, problem(n=32).y
    with torch.no_grad():
        right = torch.stack([model(x).argmax(1) == y for _ in range(20)])
    mean, never_wrong = right.float().mean(), right.all(0).float().mean()
    assert mean - never_wrong > 0
    assert never_wrong < right[0].float().mean()
