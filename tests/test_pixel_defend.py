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

from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import load_dataset
from art_advtransform.randomness import global_seed
from benchmarks.other_defences import ArtPreprocessed
from benchmarks.pixel_defend import PixelCNN, PixelDefend, bits_of, pixel_defend, pixel_loss
from benchmarks.scales import SCALES
from benchmarks.workshop import Workshop
from tests.problems import images, seeded


def net(channels: int = 3) -> PixelCNN:
    """With features that matter more than those of fresh weights."""
    with global_seed(0):
        found = PixelCNN(channels, width=8, depth=2).eval()
        for name, weight in found.named_parameters():
            if name.startswith("heads") and name.endswith("weight"):
                nn.init.normal_(weight, std=0.5)
    return found


def test_a_value_hangs_on_those_before_it_alone() -> None:
    model, x = net().double(), images(1, (3, 6, 6)).double().requires_grad_()
    for row, column, channel in ((2, 3, 0), (2, 3, 1), (2, 3, 2)):
        (gradient,) = torch.autograd.grad(model(x)[0, 100, channel, row, column], x)
        seen = gradient[0] != 0
        assert bool(seen[:, row, column - 1].all())
        assert bool(seen[:, row - 1, column].all())
        assert seen[:, row, column].tolist() == [earlier < channel for earlier in range(3)]
        assert not bool(seen[:, row, column + 1 :].any())
        assert not bool(seen[:, row + 1 :].any())


def test_the_loss_is_that_of_the_values_in_bits() -> None:
    model, x = net(1), torch.tensor([0.0, 1.0, 100 / 255] * 12).view(1, 1, 6, 6)
    weight, bias = model.heads.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
        bias[100] = math.log(255)  # a half for 100, and the rest for the 255 others
    expected = (1 + 2 * (1 + math.log2(255))) / 3
    assert float(pixel_loss(model, x, x, torch.Generator()).detach()) == pytest.approx(expected, rel=1e-5)


class EveryValue(nn.Module):
    """As ART wants it: (n, H, W, C) to 256 probabilities of each value."""

    def __init__(self, model: PixelCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x.permute(0, 3, 1, 2)).softmax(1)
        return found.permute(0, 3, 4, 2, 1).flatten(1)


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
    # which is why it is not used: under NumPy 2 a uint8 wraps around, and no value is left to choose from
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


def test_learns_digits_and_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(SCALES["digits"], nb_epochs=2, train_images=600)
    found, done = [], list[int]()
    for folder, kills in (("one go", 0), ("killed", 1)):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)

        def told(name: str, what: str, epoch: int, epochs: int, kills: int = kills) -> None:
            done.append(epoch)
            if epoch == kills:
                raise KeyboardInterrupt

        monkeypatch.setattr("benchmarks.pixel_defend.told", told)
        shop = Workshop("digits", small, None, 0, "cpu")
        if kills:
            with pytest.raises(KeyboardInterrupt):
                pixel_defend(shop)
        found.append(pixel_defend(shop))
    assert done == [1, 2, 1, 2]
    assert bits_of(found[0].net, shop) < 5 < 7 < bits_of(PixelCNN(1), shop)
    again = pixel_defend(shop)  # finished: not an epoch more
    assert len(done) == 4
    x = load_dataset("digits").sample(5).x.numpy()
    assert all(np.array_equal(found[0](x)[0], other(x)[0]) for other in (found[1], again))


def test_another_net_is_another_model() -> None:
    which = [network_identity(ArtPreprocessed(nn.Identity(), PixelDefend(model, 16))) for model in (net(), net())]
    assert which[0] == which[1]
    other = net()
    other.first.weight.data[0] += 1
    assert network_identity(ArtPreprocessed(nn.Identity(), PixelDefend(other, 16))) != which[0]
    assert network_identity(ArtPreprocessed(nn.Identity(), PixelDefend(net(), 8))) != which[0]
