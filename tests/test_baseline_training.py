"""Feature denoising and metric learning, the training options of Table 3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_advtransform.config import ThreatModel
from art_advtransform.losses import metric_loss, triplet_term
from art_advtransform.networks import Denoising, ResNet18
from art_advtransform.training import fit
from tests.models import RECIPE, Spy, global_state_untouched, toy, toy_net
from tests.problems import images, seeded

THREAT = ThreatModel(eps=0.1)


# ---- denoising


def test_a_block_begins_as_the_identity_and_is_the_formula() -> None:
    block, x = Denoising(3).double().eval(), images(2, (3, 2, 5))
    assert torch.equal(block(x), x)
    torch.nn.init.constant_(block.norm.weight, 1.0)
    mean = torch.zeros_like(x)
    for n in range(2):
        places = x[n].flatten(1)  # (C, 10)
        for i in range(10):
            for j in range(10):
                mean[n].view(3, 10)[:, i] += (places[:, i] @ places[:, j]) * places[:, j] / 10
    expected = x + F.conv2d(mean, block.project.weight) / math.sqrt(1 + block.norm.eps)
    torch.testing.assert_close(block(x), expected)


def test_a_net_has_one_behind_every_stage_and_is_otherwise_the_same() -> None:
    plain, denoised = ResNet18(5, 1, 4), ResNet18(5, 1, 4, denoising=True)
    blocks = [module for module in denoised.modules() if isinstance(module, Denoising)]
    assert [block.project.in_channels for block in blocks] == [4, 8, 16, 32]
    assert not any(isinstance(module, Denoising) for module in plain.modules())
    x = images(2, (1, 8, 8), dtype=torch.float32)
    weights = {k: v for k, v in denoised.state_dict().items() if ".project." not in k and ".norm." not in k}
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    torch.testing.assert_close(denoised.eval()(x), plain.eval()(x))


# ---- metric learning


def test_triplets() -> None:
    y = torch.tensor([0, 0, 1])
    clean = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    anchors = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    r = math.sqrt(0.5)
    # to the class on average, to the nearest other
    expected = [max(0, (0 + 1 - r) / 2 - 1 + 0.5), max(0, (1 + 1 - r) / 2 - 0 + 0.5), max(0, 0 - (1 - r) + 0.5)]
    assert float(triplet_term(anchors, clean, y, margin=0.5)) == pytest.approx(sum(expected) / 3)
    assert float(triplet_term(anchors, clean, torch.zeros(3, dtype=torch.int64))) == 0


def test_the_metric_term_comes_on_top_of_adversarial_training() -> None:
    net, data = toy_net(), toy(24)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    spy = Spy(net)
    with global_state_untouched():
        loss = metric_loss(THREAT)(spy, data.x, data.y, seeded(0))
    both = spy.seen[-1]
    assert torch.equal(both[:24], data.x)
    assert float((both[24:] - data.x).abs().max()) <= THREAT.eps + 1e-6
    assert all(module.training for module in spy.modules())
    assert not any(module._forward_pre_hooks for module in spy.modules())
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in spy.parameters())


def term(net: nn.Module, margin: float) -> float:
    """The triplet term of ``net`` on clean images."""
    data, seen = toy(), []
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    hook = linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net.eval()(data.x)
    hook.remove()
    features = F.normalize(seen[0])
    return float(triplet_term(features, features, data.y, margin))


def test_it_trains_features_that_lie_apart() -> None:
    net = toy_net()
    before = term(net, 2.0)  # a margin that nothing is beyond: the term tells every distance
    fit(net, toy(), metric_loss(ThreatModel(0.02)), RECIPE)
    assert term(net, 2.0) < before - 0.05


def test_a_net_without_a_linear_layer_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())
    with pytest.raises(ValueError, match="expected a net with a linear layer"):
        metric_loss(THREAT, 1)(net, images(2, (1, 8, 8), dtype=torch.float32), torch.tensor([0, 1]), seeded(0))
