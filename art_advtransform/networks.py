"""L3: the networks of the paper: SmallVGG (f_b, Table 4), ResNet18 (f_a), FCN (the reparameterisation h, eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from art_advtransform.config import check_count, check_positive


class _Saved(nn.Module, PyTorchModelHubMixin):
    """save_pretrained / from_pretrained / push_to_hub as safetensors with the constructor's arguments; never a pickle."""

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        raise ValueError(f"expected weights as safetensors, got {model_file}")


class SmallVGG(_Saved):
    """The VGG-style f_b of Table 4: 3x3 convolutions with batch norm and ReLU, pooled four times, three linear layers.

    Args:
        nb_classes: K.
        in_channels: C of an image (n, C, H, W) in [0, 1].
        input_size: H = W. 32 flattens to 512 and 64 to 2048, as in the paper; a block whose map is already 1x1 is not
            pooled, so that 8 works too.
        widths: channels of the four blocks (the authors' released checkpoint has 64 in the third).
        hidden: width of the two hidden linear layers.
        dropout: dropout probability before the second and third linear layer.

    Shape:
        (n, in_channels, input_size, input_size) to logits (n, nb_classes).

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> SmallVGG()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> SmallVGG(200, input_size=64).classifier[0].in_features
        2048
    """

    def __init__(
        self,
        nb_classes: int = 10,
        in_channels: int = 3,
        input_size: int = 32,
        widths: Sequence[int] = (64, 128, 128, 128),
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        sizes = {"nb_classes": nb_classes, "in_channels": in_channels, "input_size": input_size, "hidden": hidden}
        for name, value in (*sizes.items(), *(("widths", width) for width in widths)):
            check_count(name, value)
        if len(widths) != 4:
            raise ValueError(f"expected widths of 4 blocks, got {len(widths)}")
        channels, size = in_channels, input_size
        layers: list[nn.Module] = []
        for width, convolutions in zip(widths, (1, 1, 2, 2), strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            if size >= 2:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * size * size, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, nb_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class ResNet18(_Saved):
    """ResNet18 with a 3x3 stem (the paper's f_a), from torchvision's basic blocks.

    Args:
        nb_classes: K.
        in_channels: C of an image (n, C, H, W) in [0, 1]; any H and W from 8.
        width: channels of the first stage; the others have 2, 4 and 8 times as many. 64 is the paper's.
        denoising: a :class:`Denoising` block behind every stage, for feature denoising.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> ResNet18(width=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, nb_classes: int = 10, in_channels: int = 3, width: int = 64, denoising: bool = False) -> None:
        super().__init__()
        for name, value in (("nb_classes", nb_classes), ("in_channels", in_channels), ("width", width)):
            check_count(name, value)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        stages: list[nn.Module] = []
        channels = width
        for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
            stages += [_block(channels, factor * width, stride), _block(factor * width, factor * width, 1)]
            channels = factor * width
            stages += [Denoising(channels)] if denoising else []
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, nb_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.stages(self.stem(x)).mean((2, 3)))
        return logits


class Denoising(nn.Module):
    """x + norm(conv1x1(m(x))), m the non-local mean with dot products as weights (Xie et al. 2019, arXiv 1812.03411).

    It begins as the identity: the scale of its norm is zero.

    Shape:
        (n, channels, H, W) to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2)  # (n, C, HW)
        # without a softmax the product is associative: C x C numbers instead of HW x HW
        similar = places @ places.transpose(1, 2) / places.shape[2]
        denoised: Tensor = x + self.norm(self.project((similar @ places).view_as(x)))
        return denoised


def _block(channels: int, width: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or channels != width:
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    block: nn.Module = BasicBlock(channels, width, stride, shortcut)
    return block


class FCN(_Saved):
    """h(x, D), a fully convolutional imitation of g_D(x): x + eps * tanh(c(x, D)), so that it stays in the ball.

    Args:
        in_channels: C of an image.
        eps: radius of the transformation that is imitated.
        width: channels of the hidden layers.
        depth: number of hidden 3x3 convolutions.

    Shape:
        x and D, both (n, C, H, W), to (n, C, H, W).

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> h = FCN(in_channels=1)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> h(x, torch.zeros_like(x)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, in_channels: int = 3, eps: float = 0.2, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("width", width), ("depth", depth)):
            check_count(name, value)
        check_positive("eps", eps)
        self.eps = eps
        layers: list[nn.Module] = []
        channels = 2 * in_channels
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, in_channels, 3, padding=1))

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        displacement: Tensor = self.layers(torch.cat([x, start / self.eps], 1))
        return x + self.eps * torch.tanh(displacement)


NETWORKS: dict[str, type[_Saved]] = {"SmallVGG": SmallVGG, "ResNet18": ResNet18, "FCN": FCN}
