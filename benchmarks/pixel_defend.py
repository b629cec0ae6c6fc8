"""PixelDefend (Song et al. 2018, arXiv 1710.10766) for Table 3: a small PixelCNN, and ART's projection by its probabilities.

ART brings no PixelCNN, and its loop over pixels raises an ``OverflowError`` under NumPy 2 where a pixel is nearer than eps to black
or white. This does the same for whole batches, but rounds to 8 bits where ART cuts off: every value becomes the most probable one
within eps, all probabilities being of the image as it came, where Song et al. take a pixel's after those before it have changed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.store import fingerprint, tensors_sha256
from art_advtransform.training import fit
from benchmarks.workshop import NB_MEASURED, Workshop, told

EPS = 16  # of 255: ART's default
_NB_VALUES = 256
_WIDTH, _DEPTH = {"digits": 24, "cpu": 24, "paper": 96}, 5
_LEARNING_RATE, _WARMUP = 0.3, 0.2  # of SGD; of the epochs. The recipes' own rate is that of nets with batch norm
_BATCH_SIZE = 32  # a pixel is an example: an image has many
_CHUNK = 50  # images: each has 256 logits for every value


class PixelCNN(nn.Module):
    """The probability of every 8-bit value of an image given those before it (van den Oord et al. 2016, arXiv 1601.06759).

    Args:
        channels: of the images.
        width: channels of the features.
        depth: residual masked convolutions behind the first.
    """

    def __init__(self, channels: int, width: int = 24, depth: int = _DEPTH) -> None:
        super().__init__()
        self.channels = channels
        self.first = _Masked(channels, width, 7, sees_itself=False)
        self.others = nn.ModuleList(_Masked(width, width, 3, sees_itself=True) for _ in range(depth))
        # a channel also sees those before it in its own place
        self.heads = nn.ModuleList(nn.Conv2d(width + before, _NB_VALUES, 1) for before in range(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) in [0, 1] to the logits of all values, (n, 256, C, H, W)."""
        scaled = 2 * x - 1
        features = self.first(scaled)
        for layer in self.others:
            features = features + layer(features.relu())
        seen = [torch.cat([features.relu(), scaled[:, :before]], 1) for before in range(self.channels)]
        return torch.stack([head(part) for head, part in zip(self.heads, seen, strict=True)], 2)


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


def pixel_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Bits a value, mean over images, channels and pixels."""
    return F.cross_entropy(model(x), (255 * x).round().long()) / math.log(2)


class PixelDefend:
    """ART's ``PixelDefend`` for whole batches of (n, C, H, W), and whatever the pixels; its gradient is the identity, as there.

    Args:
        net: in eval mode.
        eps: how far a value may go, of 255.
    """

    def __init__(self, net: PixelCNN, eps: int) -> None:
        self.net, self.eps = net, eps

    def __call__(self, x: np.ndarray[Any, Any], y: Any = None) -> tuple[np.ndarray[Any, Any], Any]:
        device = next(self.net.parameters()).device
        with torch.no_grad():
            parts = [self._projected(part.to(device)) for part in torch.from_numpy(x).split(_CHUNK)]
        return torch.cat(parts).cpu().numpy(), y

    def estimate_gradient(self, x: np.ndarray[Any, Any], grad: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """BPDA, as ART has it."""
        return grad

    def _projected(self, x: Tensor) -> Tensor:
        value = (255 * x).round()
        values = torch.arange(_NB_VALUES, device=x.device).view(1, -1, 1, 1, 1)
        beyond = (values - value[:, None]).abs() > self.eps
        logits: Tensor = self.net(x)
        return logits.masked_fill(beyond, -math.inf).argmax(1).to(x) / 255


def pixel_defend(shop: Workshop) -> PixelDefend:
    """Its net is trained on the images of the shop; a training that was killed goes on."""
    recipe = shop.recipe("undefended").recipe
    recipe = replace(
        recipe,
        batch_size=_BATCH_SIZE,
        learning_rate=_LEARNING_RATE,
        decay="cosine",
        warmup=_WARMUP * recipe.nb_epochs,
        weight_decay=0.0,
        crop_padding=0,
    )
    with global_seed(derived_seed(recipe.seed)):
        net = PixelCNN(shop.train.x.shape[1], _WIDTH[shop.name])
    # a checkpoint knows its recipe, but neither its code nor its images
    made_from = {"recipe": asdict(recipe), "code": _source(PixelCNN, _Masked, pixel_loss), "train": shop.train_sha256}
    begun = tensors_sha256(net.state_dict().values())
    fit(
        net,
        shop.train,
        pixel_loss,
        recipe,
        checkpoint=shop.kept(f"pixel_cnn-{fingerprint({'begun': begun, **made_from})[:8]}.checkpoint.safetensors"),
        on_epoch=lambda done, epochs, bits: told("pixel_cnn", f"{bits:.2f} bits a value", done, epochs),
    )
    return PixelDefend(net.to(shop.device), EPS)


def tag(defence: PixelDefend) -> str:
    """What tells one from another whose net has learned otherwise, or that projects otherwise."""
    weights = tensors_sha256(defence.net.state_dict().values())
    return fingerprint({"weights": weights, "eps": defence.eps, "code": _source(PixelCNN, _Masked, PixelDefend)})[:8]


def _source(*parts: type | Callable[..., Any]) -> list[str]:
    """As written: compiled code differs from one Python to the next, and nets that come with the repository must not."""
    return [inspect.getsource(part) for part in parts]


def bits_of(net: nn.Module, shop: Workshop) -> float:
    """:func:`pixel_loss` on test images."""
    x = shop.test.sample(min(NB_MEASURED, len(shop.test))).x.float().to(shop.device)
    with torch.no_grad():
        parts = [(float(pixel_loss(net, part, part, torch.Generator())), len(part)) for part in x.split(_CHUNK)]
    return sum(bits * n for bits, n in parts) / len(x)
