"""Any nn.Module serves as f_b and f_a, and what is made of them can be saved, copied and moved."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

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


def test_a_frozen_model_is_moved_only_as_a_copy() -> None:
    frozen = FrozenModel(SmallVGG(3, 3, 8))
    assert freeze(frozen) is frozen
    assert freeze(frozen, "cpu") is frozen
    elsewhere = freeze(frozen, "meta")
    assert elsewhere.device.type == "meta"
    assert frozen.device.type == "cpu"


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
