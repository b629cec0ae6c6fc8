"""The registry of backward rules: one value, several gradients. The sampled rules are in test_sampled_gradients.py."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import TransformConfig
from art_advtransform.gradients import (
    GRADIENTS,
    Evolution,
    FiniteDifference,
    Identity,
    Reparameterized,
    register,
    resolve_gradient,
)
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN
from art_advtransform.unrolled import Autodiff
from tests.problems import (
    conv_net,
    images,
    make_draw,
    randomised,
    seeded,
    start_for,
)


def rule(name: str) -> GradientEstimator:
    """The rule ``name``, cheap and reproducible."""
    special: dict[str, Callable[[], GradientEstimator]] = {
        "reparameterized": lambda: Reparameterized(randomised(FCN(3, width=4, depth=1))),
        "finite_difference": lambda: FiniteDifference(nb_samples=5, generator=seeded(0)),
        "evolution": lambda: Evolution(nb_samples=2, generator=seeded(0)),
    }
    return special.get(name, GRADIENTS[name])()


def test_the_registry() -> None:
    assert set(GRADIENTS) == {
        "identity", "autodiff", "softsign", "tanh", "reparameterized", "finite_difference", "evolution",
    }  # fmt: skip
    assert all(issubclass(kind, GradientEstimator) for kind in GRADIENTS.values())


@pytest.mark.parametrize("name", sorted(GRADIENTS))
@pytest.mark.parametrize("batch_size", [None, 2])
def test_every_rule_has_the_same_value(name: str, batch_size: int | None) -> None:
    net, x = conv_net(), images(5)
    start = start_for(x)
    plain = LLPGDTransform(net, batch_size=batch_size)
    g = plain.with_gradient(rule(name))
    value = g(x.clone().requires_grad_(), start)
    assert torch.equal(value, plain(x, start))
    assert value.requires_grad
    assert torch.equal(value, g(x, start))


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_every_rule_is_linear_in_v_and_finite(name: str) -> None:
    x = images(2)
    draw = make_draw(conv_net(), x, start_for(x), TransformConfig(max_iter=3))
    v = images(2, seed=9) - 0.5
    once, twice = rule(name).pullback(draw, v), rule(name).pullback(draw, 2 * v)
    assert once.shape == x.shape
    assert bool(torch.isfinite(once).all())
    assert float(once.abs().max()) > 0
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("steps", [1, 13])
def test_autodiff_equals_identity(steps: int) -> None:
    net, x = conv_net(), images(4)
    start, weight = start_for(x), images(4, seed=8) - 0.5
    gradients = []
    for name in ("identity", "autodiff"):
        z = x.clone().requires_grad_()
        g = LLPGDTransform(net, TransformConfig(max_iter=steps), gradient=name)
        (g(z, start).tanh() * weight).sum().backward()
        assert z.grad is not None
        gradients.append(z.grad)
    assert torch.equal(*gradients)


def test_identity_is_exact_almost_everywhere() -> None:
    """g_D(x + h e) - g_D(x) = h e in float64, as long as no sign flips in between."""
    net, x = conv_net(), images(4)
    start = start_for(x)
    g = LLPGDTransform(net)
    direction = images(4, seed=6) - 0.5
    slope = (g(x + 1e-9 * direction, start) - g(x, start)) / 1e-9
    assert float(((slope - direction).abs() < 1e-5).double().mean()) > 0.99


def test_autodiff_is_not_identity_once_clipped() -> None:
    net, x = conv_net(), images(4)
    draw = make_draw(net, x, start_for(x), TransformConfig(clip_values=(0.2, 0.8)))
    v = torch.ones_like(x)
    found = Autodiff().pullback(draw, v)
    assert bool((found == 0).any())
    assert torch.equal(Identity().pullback(draw, v), v)


def test_reparameterized_is_the_gradient_of_the_network() -> None:
    h = randomised(FCN(3, width=4, depth=2))
    x = images(3)
    start, v = start_for(x), images(3, seed=5) - 0.5
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(h(z, start), z, v)
    leaf = x.clone().requires_grad_()
    (LLPGDTransform(conv_net(), gradient=Reparameterized(h))(leaf, start) * v).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, expected)
    assert float((expected - v).abs().max()) > 0.01
    assert all(p.grad is None for p in h.parameters())


# ---- names, own rules, errors


def test_own_rule_by_name() -> None:
    @register("tripled")
    class Tripled(GradientEstimator):
        def pullback(self, draw: Draw, v: Tensor) -> Tensor:
            return 3 * v

    try:
        x = images(2).requires_grad_()
        LLPGDTransform(conv_net(), gradient="tripled")(x).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full_like(x, 3.0))
    finally:
        del GRADIENTS["tripled"]


def test_resolve() -> None:
    instance = Evolution()
    assert resolve_gradient(instance) is instance
    for name in set(GRADIENTS) - {"reparameterized"}:
        assert type(resolve_gradient(name)) is GRADIENTS[name]


def test_unknown_name_lists_the_known() -> None:
    known = "autodiff, evolution, finite_difference, identity, reparameterized, softsign, tanh"
    with pytest.raises(ValueError, match=f"^unknown gradient 'bpda'; known: {known}$"):
        resolve_gradient("bpda")


def test_reparameterized_needs_a_network() -> None:
    message = 'gradient "reparameterized" needs a network: pass Reparameterized(network)'
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_gradient("reparameterized")
    wrong: Any = "h"
    with pytest.raises(TypeError, match=r"expected network to be a torch.nn.Module, got str"):
        Reparameterized(wrong)


@pytest.mark.parametrize("wrong", [None, 3, Identity])
def test_wrong_type(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"expected gradient to be a name or a GradientEstimator, got \w+"):
        resolve_gradient(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteDifference(0), "expected h > 0, got 0"),
        (lambda: FiniteDifference(nb_samples=0), "expected nb_samples >= 1, got 0"),
        (lambda: Evolution(-1), "expected sigma > 0, got -1"),
        (lambda: Evolution(nb_samples=0), "expected nb_samples >= 1, got 0"),
    ],
)
def test_bad_options(make: Callable[[], GradientEstimator], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


class Normed(nn.Module):
    """An h whose batch norm would tie images together, in train mode as networks are born."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.h = nn.BatchNorm2d(3), FCN(3, width=4, depth=1)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        value: Tensor = self.h(self.norm(x), start)
        return value


def test_reparameterized_uses_a_frozen_copy_of_the_network() -> None:
    torch.manual_seed(0)
    h, x = Normed(), images(6)
    before = copy.deepcopy(h.state_dict())
    g = LLPGDTransform(conv_net(), gradient=Reparameterized(h))  # f_b in float64, h in float32
    gradients = []
    for n in (2, 6):
        leaf = x[:n].clone().requires_grad_()
        g(leaf, start_for(x)[:n]).square().sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad[:2])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert h.training
    assert all(torch.equal(value, before[name]) for name, value in h.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in h.parameters())


def test_reparameterized_refuses_another_shape() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor, start: Tensor) -> Tensor:
            return x.flatten(1)

    x = images(2).requires_grad_()
    g = LLPGDTransform(conv_net(), gradient=Reparameterized(Flat()))
    with pytest.raises(ValueError, match=r"expected h\(x, D\) of shape \(2, 3, .*, got \(2, "):
        g(x).sum().backward()
