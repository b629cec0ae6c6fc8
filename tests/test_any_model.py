"""Any nn.Module serves as f_b and f_a, and what is made of them can be saved, copied and moved."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from art_advtransform.defended import DefendedModel
from art_advtransform.frozen import FrozenModel, freeze
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import SmallVGG
from tests.problems import seeded


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_every_protocol(protocol: int) -> None:
    frozen, x = FrozenModel(SmallVGG(3, 3, 8).eval()), torch.rand(2, 3, 8, 8)
    again = pickle.loads(pickle.dumps(frozen, protocol))
    assert again.memory_format == torch.channels_last
    assert torch.equal(again(x), frozen(x))


def test_torch_save_of_a_whole_model(tmp_path: Path) -> None:
    f_b = SmallVGG(3, 3, 8).eval()
    model = DefendedModel(f_b, LLPGDTransform(f_b)).eval()
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(x, torch.zeros_like(x)), model(x, torch.zeros_like(x)))


def test_weights_that_hooks_compute() -> None:
    # nn.utils.weight_norm leaves a computed tensor on the layer, which deepcopy refuses once it has run
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.Flatten(), nn.Linear(4 * 64, 3))
    x = torch.rand(2, 3, 8, 8)
    expected = net(x).detach()
    frozen = FrozenModel(net)
    torch.testing.assert_close(frozen(x), expected)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert LLPGDTransform(net)(x).shape == x.shape


def test_torchscript() -> None:
    f_b, x = SmallVGG(3, 3, 8).eval(), torch.rand(2, 3, 8, 8)
    scripted = torch.jit.trace(f_b, x)
    g = LLPGDTransform(scripted)
    start = torch.zeros_like(x)
    torch.testing.assert_close(g(x, start), LLPGDTransform(f_b)(x, start))
    model = DefendedModel(scripted, g).eval()
    x.requires_grad_()
    model(x, start).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None and p.requires_grad for p in scripted.parameters())


def test_data_parallel_f_a() -> None:
    f_a = SmallVGG(3, 3, 8).eval()
    model, x = DefendedModel(nn.DataParallel(f_a), None).eval(), torch.rand(2, 3, 8, 8, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None and p.requires_grad for p in f_a.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_replica_of_a_defended_model(dtype: torch.dtype) -> None:
    """nn.DataParallel's replicas have parameters of f_a only as attributes, from which gradients would reach the original."""
    f_a = SmallVGG(3, 3, 8).to(dtype).eval()
    model, x = DefendedModel(f_a, None).eval(), torch.rand(2, 3, 8, 8, requires_grad=True)
    replica = copy.copy(model)
    replica.__dict__["_modules"] = {"classifier": as_replica(f_a)}
    logits = replica(x)
    assert torch.equal(logits, model(x))
    logits.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in f_a.parameters())


def as_replica(module: nn.Module) -> nn.Module:
    """What torch.nn.parallel.replicate makes, on the same device."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, child in module.named_children():
        replica._modules[name] = as_replica(child)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            copied = parameter.view_as(parameter)
            setattr(replica, name, copied)
            replica._former_parameters[name] = copied
    made: nn.Module = replica
    return made


def test_a_frozen_model_is_moved_only_as_a_copy() -> None:
    frozen = FrozenModel(SmallVGG(3, 3, 8))
    assert freeze(frozen) is frozen
    assert freeze(frozen, "cpu") is frozen
    elsewhere = freeze(frozen, "meta")
    assert elsewhere.device.type == "meta"
    assert frozen.device.type == "cpu"


class Flattening(nn.Module):
    """As in PyTorch's tutorials: ``view`` takes no channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.conv(x))
        logits: Tensor = self.linear(maps.view(-1, 4 * 64))
        return logits


def test_an_f_b_that_flattens_by_view() -> None:
    f_b, x = Flattening(), torch.rand(3, 3, 8, 8)
    frozen, start = FrozenModel(f_b), torch.zeros_like(x)
    assert frozen.optimised
    torch.testing.assert_close(frozen(x.contiguous(memory_format=torch.channels_last)), f_b(x).detach())
    expected = LLPGDTransform(FrozenModel(f_b, optimise=False))(x, start)
    torch.testing.assert_close(LLPGDTransform(f_b)(x, start), expected)


class Inplace(Flattening):
    """Writes into its maps through the view, and uses them: with a copy in its place it would be another net."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        flat = maps.view(-1, 4 * 64)
        flat += 0.5
        logits: Tensor = self.linear(flat) + maps.mean((1, 2, 3))[:, None]
        return logits


class WritesBehind(Flattening):
    """Writes into maps that share their memory with what is read, by ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.relu = how, nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if self.how == "slice":
            flat = maps[:].view(-1, 4 * 64)
            torch.relu_(maps)
        elif self.how == "contiguous":
            flat = maps.contiguous().view(-1, 4 * 64)
            torch.relu_(maps)
        elif self.how == "layer before":
            flat = self.relu(maps).view(-1, 4 * 64)
            maps.add_(0.5)
        elif self.how == "flatten":
            flat = maps.flatten(1)
            torch.nn.functional.relu(maps, inplace=True)
        else:
            flat = maps.flatten(1)
            maps[:, 0] = 0.5
        logits: Tensor = self.linear(flat)
        return logits


@pytest.mark.parametrize("how", ["slice", "contiguous", "layer before", "flatten", "setitem"])
def test_what_is_written_behind_a_readers_back_stays_so(how: str) -> None:
    torch.manual_seed(0)
    f_b, x = WritesBehind(how).eval(), torch.rand(3, 3, 8, 8)
    frozen = FrozenModel(f_b)
    torch.testing.assert_close(frozen(x.contiguous(memory_format=frozen.memory_format)), f_b(x).detach())


def test_residual_nets_with_layers_in_place_are_fast() -> None:
    block = resnet18(num_classes=3).eval()
    frozen, x = FrozenModel(block), torch.rand(2, 3, 32, 32)
    assert frozen.optimised
    torch.testing.assert_close(frozen(x), block(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of", ["conv", "linear"])
def test_backward_hooks_are_part_of_f_b(of: str) -> None:
    f_b, x = Flattening(), torch.rand(3, 3, 8, 8)
    getattr(f_b, of).register_full_backward_hook(lambda module, inputs, outputs: tuple(-v for v in inputs))
    start = torch.zeros_like(x)
    expected = LLPGDTransform(FrozenModel(f_b, optimise=False))(x, start)
    assert torch.equal(LLPGDTransform(f_b)(x, start), expected)
    usual = Flattening()
    usual.load_state_dict(f_b.state_dict())
    assert not torch.allclose(LLPGDTransform(usual)(x, start), expected)


def test_copies_of_a_compiled_f_b_are_copies() -> None:
    frozen, x = FrozenModel(SmallVGG(3, 3, 8)), torch.rand(2, 3, 8, 8)
    expected = frozen(x)
    frozen.compile(backend="eager")
    for copied in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(copied(x), expected)
        for parameter in copied.parameters():
            parameter.zero_()
        assert not copied(x).any()
    torch.testing.assert_close(frozen(x), expected)


class Sized(Flattening):
    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.conv(x))
        logits: Tensor = self.linear(maps.view(maps.shape[0], -1))
        return logits


class OfType(Flattening):
    """Another use of ``view``: the same bytes, of the type that they have."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.conv(x).view(x.dtype).flatten(1))
        return logits


class InplaceLayer(Flattening):
    """A layer that writes into the maps that are used again."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        logits: Tensor = self.linear(self.relu(maps.view(-1, 4 * 64))) + maps.mean((1, 2, 3))[:, None]
        return logits


@pytest.mark.parametrize("kind", [Inplace, Sized, OfType, InplaceLayer])
def test_a_view_that_is_no_copy_stays_one(kind: type[Flattening]) -> None:
    torch.manual_seed(0)
    f_b, x = kind().eval(), torch.rand(3, 3, 8, 8)
    frozen, start = FrozenModel(f_b), torch.zeros_like(x)
    assert frozen.optimised == (kind is Sized)
    torch.testing.assert_close(frozen(x.contiguous(memory_format=frozen.memory_format)), f_b(x).detach())
    if kind is not OfType:  # which has no gradient
        expected = LLPGDTransform(FrozenModel(f_b, optimise=False))(x, start)
        torch.testing.assert_close(LLPGDTransform(f_b)(x, start), expected)


def test_what_is_made_inside_inference_mode_can_be_differentiated() -> None:
    f_b, x = SmallVGG(3, 3, 8).eval(), torch.rand(2, 3, 8, 8, requires_grad=True)
    with torch.inference_mode():
        g = LLPGDTransform(f_b, gradient="tanh")
    expected = LLPGDTransform(f_b, gradient="tanh")
    start = torch.zeros_like(x)
    assert torch.equal(g(x, start), expected(x, start))
    (gradient,) = torch.autograd.grad(g(x, start).sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(expected(x, start).sum(), x)[0])


class Fixed(nn.Module):
    """Weights that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(3 * 64, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.get_buffer("weight")


def test_weights_that_are_buffers_have_a_precision_too() -> None:
    g, x = LLPGDTransform(Fixed()), torch.rand(2, 3, 8, 8)
    assert g.model.dtype == torch.float64
    assert g(x).dtype == torch.float32


def test_precision_and_device_of_a_replica() -> None:
    """nn.DataParallel's replicas have buffers, and no parameters."""
    frozen = FrozenModel(SmallVGG(3, 3, 8).double())
    assert len(frozen.state_dict()) == len(FrozenModel(SmallVGG(3, 3, 8)).net.state_dict())
    replica = copy.deepcopy(frozen).to("meta")
    for module in replica.modules():
        module._parameters.clear()
    assert (replica.dtype, replica.device.type) == (torch.float64, "meta")


def test_copies_draw_for_themselves() -> None:
    f_b, x = SmallVGG(3, 3, 8), torch.rand(2, 3, 8, 8)
    g = LLPGDTransform(f_b)
    copies = [copy.deepcopy(g), pickle.loads(pickle.dumps(g))]
    first = [each(x) for each in (g, *copies)]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[1], first[2])
    # a given generator is the user's: a copy goes on where it stands
    g = LLPGDTransform(f_b, generator=seeded(3))
    assert torch.equal(copy.deepcopy(g)(x), g(x))
