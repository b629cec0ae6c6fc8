"""LLPGDTransform: what a caller may rely on, for any batch, precision, memory layout and autograd mode."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from art_advtransform.backward import GradientEstimator
from art_advtransform.config import TransformConfig
from art_advtransform.frozen import FrozenModel
from art_advtransform.gradients import GRADIENTS, Evolution, FiniteDifference, Reparameterized
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN
from art_advtransform.transform import ll_pgd, target_class
from tests.problems import Jumpy, conv_net, images, randomised, seeded, start_for

CHANNELS_LAST = torch.channels_last


def cheap(name: str) -> GradientEstimator:
    special: dict[str, Callable[[], GradientEstimator]] = {
        "reparameterized": lambda: Reparameterized(randomised(FCN(3, width=4, depth=1))),
        "finite_difference": lambda: FiniteDifference(nb_samples=3),
        "evolution": lambda: Evolution(nb_samples=2),
    }
    return special.get(name, GRADIENTS[name])()


def test_value_is_the_algorithms() -> None:
    net, x = conv_net(), images(5)
    config = TransformConfig(eps=0.1, max_iter=6, objective="most_likely")
    start = start_for(x, 0.1)
    expected = ll_pgd(net, x, target_class(net, x, "most_likely"), start, config)
    torch.testing.assert_close(LLPGDTransform(net, config)(x, start), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100, None])
def test_an_image_does_not_depend_on_its_batch(batch_size: int | None) -> None:
    net, x = conv_net(), images(7)
    start = start_for(x)
    expected = torch.cat([LLPGDTransform(net)(x[i : i + 1], start[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(LLPGDTransform(net, batch_size=batch_size)(x, start), expected, rtol=0, atol=1e-12)


def test_float32_batches_agree_but_for_signs_of_rounded_zeros() -> None:
    g, x = LLPGDTransform(conv_net(dtype=torch.float32)), images(16, dtype=torch.float32)
    start = start_for(x)
    alone = torch.cat([g(x[i : i + 1], start[i : i + 1]) for i in range(16)])
    same = (g(x, start) - alone).abs() < 1e-5
    assert float(same.double().mean()) > 0.999


def test_batch_size_bounds_what_f_b_sees() -> None:
    sizes: list[int] = []
    net = conv_net()
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    g = LLPGDTransform(net, TransformConfig(max_iter=2), batch_size=3)
    g(images(8))
    assert max(sizes) == 3
    assert len(sizes) == 2 + 3 * (
        1 + 2
    )  # two tries of the shape, which must agree; the label and two steps for each chunk


def test_random_starts() -> None:
    net, x = conv_net(), images(3)
    g = LLPGDTransform(net)
    first, second = g(x), g(x)
    assert not torch.equal(first, second)
    for out in (first, second):
        assert float((out - x).abs().max()) <= 0.2 + 1e-12
    assert not torch.equal(*(LLPGDTransform(net)(x) for _ in range(2)))  # seeded by the operating system
    same = [LLPGDTransform(net, generator=seeded(4))(x) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], LLPGDTransform(net, generator=seeded(5))(x))


def test_a_drawn_start_is_the_given_one() -> None:
    net, x = conv_net(), images(3)
    start = LLPGDTransform(net, generator=seeded(4)).draw_start(x)
    assert torch.equal(LLPGDTransform(net, generator=seeded(4))(x), LLPGDTransform(net)(x, start))


def test_no_random_start_is_zero() -> None:
    net, x = conv_net(), images(3)
    g = LLPGDTransform(net, TransformConfig(random_start=False))
    assert torch.equal(g(x), LLPGDTransform(net)(x, torch.zeros_like(x)))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(context: Callable[[], Any], requires_grad: bool) -> None:
    g, x = LLPGDTransform(conv_net()), images(3)
    start = start_for(x)
    expected = g(x, start)
    with context():
        out = g(x.requires_grad_(requires_grad), start)
        inside = g(images(3), start_for(images(3)))
        assert not torch.is_grad_enabled()
    assert torch.equal(out, expected)
    assert torch.equal(inside, expected)
    assert not out.requires_grad
    # usable outside: part of a graph, and changed in place
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (out * scale).sum().backward()
    assert scale.grad is not None
    out.add_(1)


def test_images_made_in_inference_mode() -> None:
    with torch.inference_mode():
        x, start = images(2), start_for(images(2))
    assert x.is_inference()
    g = LLPGDTransform(conv_net())
    assert torch.equal(g(x, start), g(images(2), start_for(images(2))))


def test_nothing_is_left_behind() -> None:
    net = conv_net().train().requires_grad_(True)
    state = copy.deepcopy(net.state_dict())
    x = images(3).requires_grad_()
    kept = x.detach().clone()
    for name in sorted(GRADIENTS):
        g = LLPGDTransform(net, TransformConfig(max_iter=2), gradient=cheap(name))
        g.train()
        g(x).square().sum().backward()
        assert all(p.grad is None for p in g.parameters())
        assert not any(p.requires_grad for p in g.parameters())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_global_random_state_is_untouched(name: str) -> None:
    g = LLPGDTransform(conv_net(), TransformConfig(max_iter=2), gradient=cheap(name))
    x = images(2).requires_grad_()
    torch_state, numpy_state, state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    g(x).square().sum().backward()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)
    assert random.getstate() == state


def test_train_keeps_f_b_in_eval() -> None:
    """f_b has dropout and batch norm: in train mode its gradients would differ."""
    net, x = conv_net().train(), images(4)
    start = start_for(x)
    g = LLPGDTransform(net)
    expected = g(x, start)
    nn.ModuleList([g]).train()
    assert not any(module.training for module in g.model.modules())
    assert torch.equal(g(x, start), expected)
    torch.testing.assert_close(expected, LLPGDTransform(conv_net().eval())(x, start))


@pytest.mark.parametrize("of_net", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_images", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_is_f_bs_inside_and_the_images_outside(of_net: torch.dtype, of_images: torch.dtype) -> None:
    g = LLPGDTransform(conv_net(dtype=of_net))
    x = images(2).to(of_images)
    start = start_for(x.to(of_net))
    out = g(x.requires_grad_(), start)
    assert out.dtype == of_images
    assert torch.equal(out, g(x.to(of_net), start).to(of_images))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == of_images


@pytest.mark.parametrize("model", [conv_net, lambda: randomised(Jumpy())])
@pytest.mark.parametrize("name", ["identity", "tanh"])
def test_memory_format(model: Callable[[], nn.Module], name: str) -> None:
    g, x = LLPGDTransform(model(), TransformConfig(max_iter=3), gradient=name), images(3)
    start = start_for(x)
    values, gradients = [], []
    for memory_format in (torch.contiguous_format, CHANNELS_LAST):
        z = x.clone(memory_format=memory_format).requires_grad_()
        out = g(z, start)
        assert out.is_contiguous(memory_format=memory_format)
        out.square().sum().backward()
        assert z.grad is not None
        values.append(out.detach())
        gradients.append(z.grad)
    assert torch.equal(*values)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_images_that_are_not_contiguous() -> None:
    g, x = LLPGDTransform(conv_net()), images(6)
    start = start_for(x)
    expected = g(x, start)
    assert torch.equal(g(x.transpose(2, 3).contiguous().transpose(2, 3), start), expected)
    assert torch.equal(g(x[::2], start[::2]), expected[::2])
    one = g(x[:1].expand(4, 3, 8, 8), start[:1].expand(4, 3, 8, 8))
    torch.testing.assert_close(one, expected[:1].repeat(4, 1, 1, 1), rtol=0, atol=1e-12)


def test_empty_batch() -> None:
    g = LLPGDTransform(conv_net())
    out = g(torch.empty(0, 3, 8, 8))
    assert out.shape == (0, 3, 8, 8)
    assert out.dtype == torch.float32
    assert g(torch.empty(0, 3, 8, 8), torch.empty(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_gradient_flows_to_what_made_the_images() -> None:
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    x = images(2)
    LLPGDTransform(conv_net(), batch_size=1)(scale * x).sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(x.sum()))  # BPDA-I: dg/dx = 1


def test_no_gradient_flows_to_the_start() -> None:
    x = images(2).requires_grad_()
    start = start_for(images(2)).requires_grad_()
    LLPGDTransform(conv_net())(x, start).sum().backward()
    assert start.grad is None
    assert x.grad is not None


def test_with_gradient_shares_f_b() -> None:
    config = TransformConfig(max_iter=3)
    g = LLPGDTransform(conv_net(), config, batch_size=2, generator=seeded(0))
    other = g.with_gradient("tanh", seeded(0))
    assert other.model is g.model
    assert (other.config, other.batch_size) == (config, 2)
    assert isinstance(other.gradient, GRADIENTS["tanh"])
    assert isinstance(g.gradient, GRADIENTS["identity"])
    assert torch.equal(g(images(2)), other(images(2)))
    assert g.with_gradient("tanh").generator is not g.generator  # an attacker does not share the defence's draws


def test_device_moves_the_copy_only() -> None:
    net = conv_net()
    g = LLPGDTransform(net, device="meta", generator=seeded(0))
    assert g.model.device == torch.device("meta")
    assert next(net.parameters()).device == torch.device("cpu")
    assert LLPGDTransform(net).model.device == torch.device("cpu")


def test_a_frozen_model_is_shared() -> None:
    frozen = FrozenModel(conv_net())
    assert LLPGDTransform(frozen).model is frozen


@pytest.mark.parametrize("name", sorted(GRADIENTS))
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_pickle_and_deepcopy(name: str, clone: Callable[[LLPGDTransform], LLPGDTransform]) -> None:
    g, x = LLPGDTransform(conv_net(), gradient=cheap(name), generator=seeded(3)), images(2)
    start = start_for(x)
    copied = clone(g)
    assert torch.equal(copied(x, start), g(x, start))
    assert copied.model is not g.model
    assert type(copied.gradient) is type(g.gradient)
    assert torch.equal(copied(x), g(x))  # the copy's draws go on from the same state
    leaf: Tensor = x.clone().requires_grad_()
    copied(leaf, start).sum().backward()
    assert leaf.grad is not None
