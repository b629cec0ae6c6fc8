"""What Table 3 does to images before a classifier: ART's preprocessors, or what ART has, vectorised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from art.defences.preprocessor import JpegCompression, TotalVarMin
from torch import Tensor, nn

from art_advtransform.randomness import global_seed
from benchmarks.columns import IDENTITY, STAND_IN
from benchmarks.other_defences import ArtPreprocessed, Thermometer
from benchmarks.pixel_defend import EPS, PixelDefend, bits_of, pixel_defend, tag
from benchmarks.workshop import Workshop

_LEVELS = 10  # of the thermometer
# Whose numbers the paper has with a star: Athalye et al. 2018 (arXiv 1802.00420), Table 1.
OF_ATHALYE = "Athalye et al., in the paper"
OF_GUO = f"{OF_ATHALYE}: on ImageNet, L2 0.005"


@dataclass(frozen=True)
class Preprocessor:
    """What is done to images.

    Attributes:
        model: how it is put before a classifier.
        implementation: whose.
        channels: for each channel of an image.
        paper_worst: accuracy that the paper has for it.
        paper_source: whose number that is.
        along: what attacks take for its gradient, see :func:`~benchmarks.columns.named`.
    """

    model: Callable[[nn.Module, Workshop], ArtPreprocessed]
    implementation: str
    channels: int = 1
    paper_worst: float = 0.0
    paper_source: str = OF_ATHALYE
    along: str = IDENTITY


def encoded(defence: ArtPreprocessed, x: Tensor) -> Tensor:
    """All images as a defence makes them, once."""
    with global_seed(0), torch.no_grad():
        return torch.cat([defence.defended(part) for part in x.split(1000)])


def learned(model: ArtPreprocessed, shop: Workshop) -> tuple[str, str]:
    """How good what it has learned is, for readers, and what tells it from another one; nothing where it has learned nothing."""
    if not isinstance(model.defence, PixelDefend):
        return "", ""
    return f", PixelCNN of {bits_of(model.defence.net, shop):.2f} bits a value", f" {tag(model.defence)}"


def _jpeg(classifier: nn.Module, _: Workshop) -> ArtPreprocessed:
    return ArtPreprocessed(classifier, JpegCompression(clip_values=(0.0, 1.0), quality=50, channels_first=True))


def _total_variation(classifier: nn.Module, _: Workshop) -> ArtPreprocessed:
    # ART's own numbers: at those of Guo et al. (0.5, 0.03) its search for a minimum gives up where it begins, at the image itself
    variation = TotalVarMin(prob=0.3, lamb=0.5, clip_values=(0.0, 1.0))
    return ArtPreprocessed(classifier, variation, channels_last=True, randomized=True)


def _thermometer(classifier: nn.Module, shop: Workshop) -> ArtPreprocessed:
    # what an attack has moved to one end of the budget it may move to the other
    return ArtPreprocessed(classifier, Thermometer(_LEVELS, 2 * shop.threat.eps))


def _pixel_defend(classifier: nn.Module, shop: Workshop) -> ArtPreprocessed:
    return ArtPreprocessed(classifier, pixel_defend(shop))


PREPROCESSORS = {
    "JPEG (Guo)": Preprocessor(_jpeg, "ART JpegCompression, quality 50", paper_source=OF_GUO),
    "total variation (Guo)": Preprocessor(
        _total_variation, "ART TotalVarMin, prob 0.3, lamb 0.5 (ART's defaults)", paper_source=OF_GUO
    ),
    "thermometer encoding (Buckman)": Preprocessor(
        _thermometer,
        f"benchmarks/other_defences.py: ART ThermometerEncoding of {_LEVELS} levels, vectorised, with a wider gradient",
        channels=_LEVELS,
        along=STAND_IN,
    ),
    "PixelDefend (Song)": Preprocessor(
        _pixel_defend,
        f"benchmarks/pixel_defend.py: ART PixelDefend, vectorised, eps {EPS} of 255 (ART's default)",
        paper_worst=5.0,
        paper_source=f"{OF_ATHALYE}; they have 9",
    ),
}
