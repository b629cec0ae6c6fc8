"""PixelDefend (Song et al. 2018, arXiv 1710.10766) for Table 3: a small PixelCNN, and ART's projection by its probabilities.

ART brings no PixelCNN, and its loop over pixels raises an ``OverflowError`` under NumPy 2 where a pixel is nearer than eps to black
or white. This does the same for whole batches: every value becomes the most probable one within eps, all probabilities being of the
image as it came, where Song et al. take a pixel's after those before it have changed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.training import fit
from benchmarks.workshop import NB_MEASURED, Workshop, told

_WIDTH, _DEPTH, _NB_LOGISTICS = {"digits": 24, "cpu": 24, "paper": 96}, 5, 5
_LEARNING_RATE = 0.03  # of SGD: the recipes' own is that of nets with batch norm
_BATCH_SIZE = 32  # a pixel is an example: an image has many
_EPS = 16  # of 255
_CHUNK = 250  # images


class PixelCNN(nn.Module):
    """The probability of every 8-bit value of an image given those before it, row by row: a mixture of discretised logistics.

    The mixture is that of PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517), but with weights for each channel; features are
    those of masked convolutions (van den Oord et al. 2016, arXiv 1601.06759).

    Args:
        channels: of the images.
        width: channels of the features.
        depth: residual masked convolutions behind the first.
        nb_logistics: of a mixture.
    """

    def __init__(self, channels: int, width: int = 24, depth: int = _DEPTH, nb_logistics: int = _NB_LOGISTICS) -> None:
        super().__init__()
        self.channels, self.nb_logistics = channels, nb_logistics
        self.first = _Masked(channels, width, 7, sees_itself=False)
        self.others = nn.ModuleList(_Masked(width, width, 3, sees_itself=True) for _ in range(depth))
        # for each channel and logistic: weight, mean, scale, and how the mean follows the channels before
        self.head = nn.Conv2d(width, channels * nb_logistics * (3 + channels), 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) in [0, 1] to log weights, means and log scales in [-1, 1], (3, n, K, C, H, W)."""
        scaled = 2 * x - 1
        features = self.first(scaled)
        for layer in self.others:
            features = features + layer(features.relu())
        found = self.head(features.relu())
        found = found.unflatten(1, (self.nb_logistics, self.channels, 3 + self.channels))
        before = torch.ones(self.channels, self.channels, device=x.device).tril(-1)[:, :, None, None]
        follows = found[:, :, :, 3:].tanh() * before * scaled[:, None, None]
        mean = found[:, :, :, 1] + follows.sum(3)
        return torch.stack([found[:, :, :, 0].log_softmax(1), mean, found[:, :, :, 2].clamp_min(-7)])


class _Masked(nn.Conv2d):
    """A convolution that sees what is above, and to the left; ``sees_itself``: and the place itself."""

    def __init__(self, inputs: int, outputs: int, size: int, *, sees_itself: bool) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        mask = torch.ones(size * size)
        mask[size * size // 2 + sees_itself :] = 0
        self.register_buffer("mask", mask.view(size, size), persistent=False)
        self.mask: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)


def log_probability(mixture: Tensor, value: Tensor) -> Tensor:
    """Of every ``value`` (n, C, H, W), from 0 to 255, given the mixture; what lies beyond black and white counts as these."""
    log_weight, mean, log_scale = mixture
    middle = (2 * value / 255 - 1)[:, None]
    low, high = ((middle + side / 255 - mean) * (-log_scale).exp() for side in (-1, 1))
    low, high = low.where(value[:, None] > 0, -math.inf), high.where(value[:, None] < 255, math.inf)
    # log(s(high) - s(low)), s the sigmoid, where the difference itself would be rounded to nothing
    each = F.logsigmoid(high) + F.logsigmoid(-low) + (-torch.expm1(low - high)).log()
    found: Tensor = (log_weight + each).logsumexp(1)
    return found


def pixel_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Bits a value, mean over images, channels and pixels."""
    return -log_probability(model(x), (255 * x).round()).mean() / math.log(2)


class PixelDefend:
    """ART's ``PixelDefend`` for whole batches of (n, C, H, W), and whatever the pixels; its gradient is the identity, as there.

    Args:
        net: in eval mode.
        eps: how far a value may go, of 255.
        bits: a value that ``net`` takes on images that it has not seen.
    """

    def __init__(self, net: PixelCNN, eps: int, bits: float = math.nan) -> None:
        self.net, self.eps, self.bits = net, eps, bits

    def __call__(self, x: np.ndarray[Any, Any], y: Any = None) -> tuple[np.ndarray[Any, Any], Any]:
        device = self.net.head.weight.device
        parts = torch.from_numpy(x).split(_CHUNK)
        with torch.no_grad():
            return np.concatenate([self._projected(part.to(device)).cpu().numpy() for part in parts]), y

    def estimate_gradient(self, x: np.ndarray[Any, Any], grad: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """BPDA, as ART has it."""
        return grad

    def _projected(self, x: Tensor) -> Tensor:
        mixture, value = self.net(x), (255 * x).round()
        best, found = torch.full_like(value, -math.inf), value
        for offset in range(-self.eps, self.eps + 1):
            # the same twice at black and white: of equals the first counts, as in ART's loop
            candidate = (value + offset).clamp(0, 255)
            probability = log_probability(mixture, candidate)
            found = torch.where(probability > best, candidate, found)
            best = torch.maximum(best, probability)
        return found / 255


def pixel_defend(shop: Workshop) -> PixelDefend:
    """With a net trained on the images of the shop, which goes on after a kill; eps is ART's default, as in the paper."""
    recipe = replace(
        shop.recipe("undefended").recipe,
        batch_size=_BATCH_SIZE,
        learning_rate=_LEARNING_RATE,
        weight_decay=0.0,
        crop_padding=0,
    )
    with global_seed(derived_seed(recipe.seed)):
        net = PixelCNN(shop.train.x.shape[1], _WIDTH[shop.name])
    made_from = f"{recipe} {net} {shop.train_sha256}"
    kept = shop.home / "nets" / f"pixel_cnn-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    fit(
        net,
        shop.train,
        pixel_loss,
        recipe,
        checkpoint=kept.with_suffix(".checkpoint.safetensors"),
        on_epoch=lambda done, epochs, bits: told("pixel_cnn", f"{bits:.2f} bits a value", done, epochs),
    )
    net.to(shop.device)
    return PixelDefend(net, _EPS, bits_of(net, shop))


def bits_of(net: PixelCNN, shop: Workshop) -> float:
    """:func:`pixel_loss` on test images."""
    x = shop.test.sample(min(NB_MEASURED, len(shop.test))).x.float().to(shop.device)
    with torch.no_grad():
        parts = [(pixel_loss(net, part, part, torch.Generator()), len(part)) for part in x.split(_CHUNK)]
    return float(sum(bits * n for bits, n in parts)) / len(x)
