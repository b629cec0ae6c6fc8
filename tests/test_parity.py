"""LL-PGD beside the toolkits' own PGD: the same start, label, step and radius give the same image.

Images lie in [0.45, 0.55] and the radius is 0.2, so that the toolkits' clip to [0, 1] never acts.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from art_advtransform.config import Objective, TransformConfig
from art_advtransform.transform import ll_pgd, target_class
from tests.problems import conv_net, images, start_for

N = 16


@pytest.fixture
def net() -> nn.Module:
    return conv_net(dtype=torch.float32)


@pytest.fixture
def x() -> Tensor:
    return 0.45 + 0.1 * images(N, dtype=torch.float32)


def check_same(found: Tensor, expected: Tensor) -> None:
    """Where a gradient is zero but for rounding its sign is arbitrary in float32: 1 pixel in 1,000 may differ."""
    same = (found - expected).abs() <= 1e-5
    assert float(same.double().mean()) >= 0.999


def by_art(
    net: nn.Module, x: Tensor, y: Tensor, start: Tensor, monkeypatch: pytest.MonkeyPatch, **kwargs: Any
) -> Tensor:
    from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_pytorch as module
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(net, nn.CrossEntropyLoss(), x.shape[1:], 5, clip_values=(0.0, 1.0), device_type="cpu")
    attack = module.ProjectedGradientDescentPyTorch(
        estimator, eps=0.2, eps_step=0.02, num_random_init=1, batch_size=N, verbose=False, **kwargs
    )
    monkeypatch.setattr(module, "random_sphere", lambda n, m, eps, norm: start.numpy().reshape(n, m))
    return torch.from_numpy(attack.generate(x.numpy(), np.eye(5, dtype=np.float32)[y.numpy()]))


def by_torchattacks(
    net: nn.Module, x: Tensor, y: Tensor, start: Tensor, monkeypatch: pytest.MonkeyPatch, steps: int, targeted: bool
) -> Tensor:
    import torchattacks

    attack = torchattacks.PGD(net, eps=0.2, alpha=0.02, steps=steps)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    monkeypatch.setattr(Tensor, "uniform_", lambda self, low, high: self.copy_(start))
    result: Tensor = attack(x, y)
    return result


@pytest.mark.parametrize("steps", [1, 13])
@pytest.mark.parametrize("objective", get_args(Objective))
def test_art(net: nn.Module, x: Tensor, steps: int, objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TransformConfig(max_iter=steps, objective=objective)
    y, start = target_class(net, x, objective), start_for(x)
    expected = by_art(net, x, y, start, monkeypatch, max_iter=steps, targeted=objective == "least_likely")
    check_same(ll_pgd(net, x, y, start, config), expected)


@pytest.mark.parametrize("steps", [1, 13])
@pytest.mark.parametrize("objective", get_args(Objective))
def test_torchattacks(
    net: nn.Module, x: Tensor, steps: int, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TransformConfig(max_iter=steps, objective=objective)
    y, start = target_class(net, x, objective), start_for(x)
    expected = by_torchattacks(net, x, y, start, monkeypatch, steps, objective == "least_likely")
    check_same(ll_pgd(net, x, y, start, config), expected)


def test_the_comparison_can_fail(net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start, label, or number of steps is told apart."""
    y, start = target_class(net, x), start_for(x)
    expected = by_torchattacks(net, x, y, start, monkeypatch, 13, targeted=True)
    others = [
        ll_pgd(net, x, y, torch.zeros_like(x), TransformConfig()),
        ll_pgd(net, x, (y + 1) % 5, start, TransformConfig()),
        ll_pgd(net, x, y, start, TransformConfig(max_iter=12)),
    ]
    for other in others:
        assert float(((other - expected).abs() <= 1e-5).double().mean()) < 0.9
