"""PixelDefend of Table 3: a PixelCNN that is one, and ART's projection where ART's runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from art.defences.preprocessor import PixelDefend as ArtPixelDefend
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_advtransform.datasets import load_dataset
from art_advtransform.randomness import global_seed
from benchmarks.pixel_defend import PixelCNN, PixelDefend, log_probability, pixel_defend, pixel_loss
from benchmarks.scales import SCALES
from benchmarks.workshop import Workshop
from tests.problems import images, seeded


def net(channels: int = 3) -> PixelCNN:
    """With features that matter more than those of fresh weights."""
    with global_seed(0):
        found = PixelCNN(channels, width=8, depth=2).eval()
        nn.init.normal_(found.head.weight, std=0.5)
    return found


def each_value(model: PixelCNN, x: Tensor) -> Tensor:
    """Log probabilities (n, C, H, W, 256)."""
    with torch.no_grad():
        mixture = model(x)
        return torch.stack([log_probability(mixture, torch.full_like(x, value)) for value in range(256)], dim=-1)


def test_probabilities_of_all_values_are_one_together() -> None:
    model, x = net().double(), images(2, (3, 5, 5)).double()
    assert torch.allclose(each_value(model, x).exp().sum(-1), torch.ones_like(x))


def test_a_value_hangs_on_those_before_it_alone() -> None:
    model, x = net().double(), images(1, (3, 6, 6)).double().requires_grad_()
    value = torch.full_like(x, 100.0).detach()
    for row, column, channel in ((2, 3, 0), (2, 3, 1), (2, 3, 2)):
        (gradient,) = torch.autograd.grad(log_probability(model(x), value)[0, channel, row, column], x)
        seen = gradient[0] != 0
        assert bool(seen[:, row, column - 1].all())
        assert bool(seen[:, row - 1, column].all())
        assert seen[:, row, column].tolist() == [earlier < channel for earlier in range(3)]
        assert not bool(seen[:, row, column + 1 :].any())
        assert not bool(seen[:, row + 1 :].any())


def test_what_is_improbable_is_still_told_apart() -> None:
    # a single logistic at black with the least scale: its tail is far below what float32 has beside 1
    mixture = torch.stack([torch.tensor(value).view(1, 1, 1, 1, 1) for value in (0.0, -1.0, -7.0)])
    found = [float(log_probability(mixture, torch.full((1, 1, 1, 1), float(v)))) for v in (0, 1, 100, 101, 255)]
    assert all(math.isfinite(value) for value in found)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 5


def test_the_loss_has_a_finite_gradient_in_black_and_white() -> None:
    model, x = net(1).train(), torch.tensor([0.0, 1.0] * 18).view(1, 1, 6, 6)
    pixel_loss(model, x, x, torch.Generator()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert model.first.weight.grad is not None
    assert bool((model.first.weight.grad != 0).any())


class EveryValue(nn.Module):
    """As ART wants it: (n, H, W, C) to 256 probabilities of each value."""

    def __init__(self, model: PixelCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found = each_value(self.model, x.permute(0, 3, 1, 2)).exp()
        return found.permute(0, 2, 3, 1, 4).flatten(1)


def art_s(model: PixelCNN, eps: int) -> ArtPixelDefend:
    """Of images (n, 5, 5, C)."""
    shape = (5, 5, model.channels)
    classifier = PyTorchClassifier(
        nn.Sequential(EveryValue(model)), loss=None, input_shape=shape, nb_classes=256 * math.prod(shape)
    )
    return ArtPixelDefend(eps=eps, pixel_cnn=classifier)


def test_projects_as_art_does() -> None:
    model = net()
    # a quarter above a value: ART cuts off where we round; and nowhere nearer than eps to black or white
    levels = torch.randint(16, 239, (4, 3, 5, 5), generator=seeded(0))
    x = ((levels + 0.25) / 255).numpy().astype(np.float32)
    expected, _ = art_s(model, 16)(x.transpose(0, 2, 3, 1).copy())
    found, _ = PixelDefend(model, 16)(x)
    assert np.allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert float(np.abs(found - levels.numpy() / 255).max()) > 10 / 255


def test_art_s_own_stops_at_dark_and_bright_pixels() -> None:
    # which is why it is not used: NumPy 2 does not subtract eps from a small uint8
    for level in (5, 250):
        x = np.full((1, 5, 5, 3), level / 255, np.float32)
        with np.errstate(over="ignore"), pytest.raises(OverflowError):
            art_s(net(), 16)(x)


def test_stays_within_eps_and_between_black_and_white() -> None:
    x = torch.tensor([0.0, 1.0, 0.02, 0.98, 0.5] * 5).view(1, 1, 5, 5).numpy()
    found, _ = PixelDefend(net(1), 30)(x)
    assert float(np.abs(found - x).max()) <= 30.5 / 255
    assert 0 <= found.min() <= found.max() <= 1
    assert np.allclose(found * 255, np.round(found * 255), atol=1e-4)
    assert not np.allclose(found, x, atol=5 / 255)


def test_learns_digits_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", replace(SCALES["digits"], nb_epochs=2, train_images=600), None, 0, "cpu")
    first = pixel_defend(shop)
    assert first.eps == 16
    assert first.bits < 6  # a net that knows nothing takes 8
    again = pixel_defend(shop)  # from the checkpoint, without an epoch
    x = load_dataset("digits").sample(5).x.numpy()
    assert again.bits == first.bits
    assert np.array_equal(first(x)[0], again(x)[0])
