"""One contract for every host: the same f_a, f_b and D give the same predictions, gradients and guarantees."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.integration.contract import HOSTS, Build, Host
from tests.integration.nets import (
    Problem,
    inside,
    logits_at,
    loss_gradient_at,
    problem,
    seeded,
    starts,
    transformed,
)

EPS = 0.1


@pytest.fixture(params=sorted(HOSTS))
def build(request: pytest.FixtureRequest) -> Build:
    return HOSTS[request.param]


@pytest.fixture
def task() -> Problem:
    return problem()


def defended(build: Build, task: Problem, seed: int | None = 0, batch_size: int | None = None) -> Host:
    return build(task.f_a, task.f_b, None if seed is None else seeded(seed), batch_size)


def assert_same_logits(actual: Tensor, expected: Tensor) -> None:
    """Foolbox gets log-probabilities, the others logits: they may differ by a shift of every row."""
    torch.testing.assert_close(actual.log_softmax(1), expected.log_softmax(1), rtol=1e-5, atol=1e-5)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def exercise(host: Host, task: Problem) -> None:
    """Everything that an evaluation does to a host."""
    host.predict(task.x)
    host.input_gradient(task.x, task.y)
    host.pgd(task.x, task.y, EPS)


def test_predictions_are_those_of_f_a_at_g_d_draw_after_draw(build: Build, task: Problem) -> None:
    host = defended(build, task)
    for start in starts(task.x, seed=0, calls=3):
        expected = logits_at(task.f_a, transformed(task.f_b, task.x, start))
        assert_same_logits(host.predict(task.x), expected)
        assert (expected - logits_at(task.f_a, task.x)).abs().max() > 0.1, "g must matter for this to be a test"


def test_input_gradient_is_that_of_f_a_at_g_d(build: Build, task: Problem) -> None:
    host = defended(build, task)
    for start in starts(task.x, seed=0, calls=2):
        expected = loss_gradient_at(task.f_a, transformed(task.f_b, task.x, start), task.y)
        torch.testing.assert_close(host.input_gradient(task.x, task.y), expected, rtol=1e-4, atol=1e-6)
        assert (expected - loss_gradient_at(task.f_a, task.x, task.y)).abs().max() > 1e-2


def test_without_a_transform_the_outputs_and_gradients_are_those_of_f_a(build: Build, task: Problem) -> None:
    host = build(task.f_a, None, None, None)
    assert_same_logits(host.predict(task.x), logits_at(task.f_a, task.x))
    expected = loss_gradient_at(task.f_a, task.x, task.y)
    torch.testing.assert_close(host.input_gradient(task.x, task.y), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_chunks_do_not_change_values_or_gradients(build: Build, task: Problem, batch_size: int) -> None:
    whole, chunked = defended(build, task), defended(build, task, batch_size=batch_size)
    assert_same_logits(chunked.predict(task.x), whole.predict(task.x))
    expected = whole.input_gradient(task.x, task.y)
    torch.testing.assert_close(chunked.input_gradient(task.x, task.y), expected, rtol=1e-4, atol=1e-6)


def test_fresh_draws_differ_from_call_to_call(build: Build, task: Problem) -> None:
    host = defended(build, task, seed=None)
    assert not torch.allclose(host.predict(task.x), host.predict(task.x), atol=1e-3)
    gradients = [host.input_gradient(task.x, task.y) for _ in range(2)]
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-3)


def test_f_b_stays_in_eval_mode_even_when_the_host_asks_for_training(build: Build, task: Problem) -> None:
    host = defended(build, task)
    host.model.train()
    exercise(host, task)
    host.model.train()
    assert host.transform is not None
    assert host.model.training
    assert not any(modes(host.transform.model)), "f_b left eval mode"


def test_no_parameter_keeps_a_gradient(build: Build, task: Problem) -> None:
    host = defended(build, task)
    exercise(host, task)
    assert host.transform is not None
    nets: list[nn.Module] = [task.f_b, host.transform, *([task.f_a] if host.keeps_classifier_clean else [])]
    assert [p.grad for net in nets for p in net.parameters() if p.grad is not None] == []


def test_the_models_that_were_passed_in_are_unchanged(build: Build, task: Problem) -> None:
    before = snapshot(task.f_a), snapshot(task.f_b)
    modes_before, trainable = modes(task.f_b), [p.requires_grad for p in task.f_b.parameters()]
    exercise(defended(build, task), task)
    for net, old in zip((task.f_a, task.f_b), before, strict=True):
        new = net.state_dict()
        assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert modes(task.f_b) == modes_before
    assert task.f_b.training, "the test is about an f_b that came in train mode"
    assert [p.requires_grad for p in task.f_b.parameters()] == trainable
    assert all(p.requires_grad for p in task.f_a.parameters()), "f_a must still be trainable"


def test_stock_pgd_stays_inside_the_budget_and_really_attacks(build: Build, task: Problem) -> None:
    control, host = build(task.f_a, None, None, None), defended(build, task)
    attacked = control.pgd(task.x, task.y, EPS)
    assert inside(attacked, task.x, EPS)
    assert (logits_at(task.f_a, attacked).argmax(1) == task.y).float().mean() <= 0.5
    assert (control.predict(task.x).argmax(1) == task.y).all()
    defended_attacked = host.pgd(task.x, task.y, EPS)
    assert inside(defended_attacked, task.x, EPS)
    start = starts(task.x, seed=9)[0]
    losses = [
        torch.nn.functional.cross_entropy(logits_at(task.f_a, transformed(task.f_b, x, start)), task.y)
        for x in (task.x, defended_attacked)
    ]
    assert losses[1] > losses[0], "the gradient that the attack was given points downhill"


def global_states() -> tuple[bytes, str, Any]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()


def test_the_defence_leaves_global_randomness_where_the_host_alone_would(build: Build, task: Problem) -> None:
    """Hosts draw from the global generators themselves (ART's data loader does), so that a bare f_a is the measure."""
    states = []
    for host in (build(task.f_a, None, None, None), defended(build, task, seed=None)):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        exercise(host, task)
        states.append(global_states())
    assert states[0] == states[1]


@pytest.mark.parametrize("seeded_when", ["built", "called"])
def test_global_seeds_do_not_fix_the_draws(build: Build, task: Problem, seeded_when: str) -> None:
    host = defended(build, task, seed=None)
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        host = defended(build, task, seed=None) if seeded_when == "built" else host
        outputs.append(host.predict(task.x))
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
