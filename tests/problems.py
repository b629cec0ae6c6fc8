"""Problems with known answers, and small networks. Everything is drawn from an explicit seed, never from global state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.backward import Draw
from art_advtransform.config import TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.transform import ll_pgd, random_start, target_class


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(
    n: int, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Images in [0, 1]."""
    return torch.rand((n, *shape), generator=seeded(seed), dtype=dtype)


def start_for(x: Tensor, eps: float = 0.2, seed: int = 1) -> Tensor:
    """D ~ U(-eps, eps)."""
    return random_start(x, eps, seeded(seed))


@dataclass(frozen=True)
class LinearTwoClasses:
    """f_b(z) = (<w, z> + b, 0): g_D(x) in closed form.

    With y = 1 (where s(x) = <w, x> + b > 0: the least likely class is the second), u = grad L is a positive multiple of w at
    every z; with y = 0 of -w. So the sign of u never changes along the way, and

        g_D(x) = x + d,   d_j = clamp(...clamp(D_j - a r_j)... - a r_j),   r = sign(w) sign(s(x)),

    each clamp to [-eps, eps]; where N a >= 2 eps that is -eps r, the same corner for every D. Smoothed by Gaussian noise of
    standard deviation sigma, E d(x + sigma n) = -eps sign(w) (2 Phi(s / (sigma |w|)) - 1), whose Jacobian is known too.
    """

    w: Tensor
    bias: float
    net: nn.Sequential

    @classmethod
    def make(cls, w: Tensor, bias: float = 0.0) -> LinearTwoClasses:
        net = linear_net(torch.stack([w.flatten(), torch.zeros_like(w.flatten())]), torch.tensor([bias, 0.0]))
        return cls(w, bias, net)

    def margin(self, x: Tensor) -> Tensor:
        """s(x), shape (n, 1, 1, 1)."""
        return (x * self.w).sum((1, 2, 3), keepdim=True) + self.bias

    def answer(self, x: Tensor, start: Tensor, config: TransformConfig) -> Tensor:
        """g_D(x), pixel by pixel."""
        direction = torch.sign(self.w) * torch.sign(self.margin(x))
        d = start
        for _ in range(config.max_iter):
            d = (d - config.step * direction).clamp(-config.eps, config.eps)
        return x + d

    def smoothed_pullback(self, x: Tensor, v: Tensor, eps: float, sigma: float) -> Tensor:
        """Gradient of E <v, g(x + sigma n)> where every D ends in the corner: v - 2 eps phi(t) / (sigma |w|) <sign w, v> w."""
        norm = self.w.norm()
        t = self.margin(x) / (sigma * norm)
        density = torch.exp(-(t**2) / 2) / (2 * torch.pi) ** 0.5
        along = (v * torch.sign(self.w)).sum((1, 2, 3), keepdim=True)
        gradient: Tensor = v - 2 * eps * density / (sigma * norm) * along * self.w
        return gradient


def linear_two_classes(shape: tuple[int, int, int] = (1, 2, 2), seed: int = 0, bias: float = 0.0) -> LinearTwoClasses:
    """Weights of both signs, none near zero."""
    w = torch.rand(shape, generator=seeded(seed), dtype=torch.float64) + 0.5
    flip = torch.rand(shape, generator=seeded(seed + 1)) < 0.5
    flip.view(-1)[0], flip.view(-1)[1] = False, True
    return LinearTwoClasses.make(torch.where(flip, -w, w), bias)


def weights(nb_classes: int, shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0) -> Tensor:
    """A K x pixels matrix, float64."""
    return torch.randn(nb_classes, shape[0] * shape[1] * shape[2], generator=seeded(seed), dtype=torch.float64)


def linear_net(w: Tensor, bias: Tensor | None = None) -> nn.Sequential:
    """f_b(z) = W z + b, in the precision of W."""
    layer = nn.Linear(w.shape[1], w.shape[0]).to(w.dtype)
    with torch.no_grad():
        layer.weight.copy_(w)
        layer.bias.copy_(torch.zeros(len(w)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def _fill(net: nn.Module, seed: int) -> None:
    """Weights of the usual size, and batch statistics that are not (0, 1): folding them must matter."""
    generator = seeded(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                n = module.num_features
                module.running_mean.copy_(torch.randn(n, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(n, generator=generator) + 0.3)
                module.weight.copy_(torch.rand(n, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(n, generator=generator) * 0.2)


def randomised(net: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """``net`` in eval mode with weights and batch statistics drawn from ``seed``."""
    _fill(net, seed)
    return net.to(dtype).eval()


def centred(net: nn.Module, head: nn.Linear, shape: tuple[int, int, int], scale: float = 2.0) -> nn.Module:
    """Shift and scale the logits over random images, so that every class occurs and none is certain."""
    with torch.no_grad():
        sample = images(256, shape, seed=99, dtype=head.weight.dtype)
        head.bias.sub_(net(sample).mean(0))
        factor = scale / net(sample).std()
        head.weight.mul_(factor)
        head.bias.mul_(factor)
    return net


def smooth_net(shape: tuple[int, int, int] = (2, 4, 4), seed: int = 0, nb_classes: int = 3) -> nn.Module:
    """A small f_b with softplus and tanh, float64: twice differentiable, so that gradcheck applies."""
    c, h, w = shape
    head = nn.Linear(3 * (h - 2) * (w - 2), nb_classes)
    net = nn.Sequential(
        nn.Conv2d(c, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(),
        head,
    )  # fmt: skip
    return centred(randomised(net, seed), head, shape)


def conv_net(seed: int = 0, nb_classes: int = 5, in_channels: int = 3, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A small f_b for 8x8 images as they are built in practice: conv, BN, ReLU, pool, dropout, linear."""
    head = nn.Linear(32, nb_classes)
    net = nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.5), head,
    )  # fmt: skip
    return centred(randomised(net, seed, dtype), head, (in_channels, 8, 8))


def classifier(
    seed: int = 7, nb_classes: int = 5, in_channels: int = 3, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """A small f_a for 8x8 images."""
    head = nn.Linear(24, nb_classes)
    net = nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        head,
    )  # fmt: skip
    return centred(randomised(net, seed, dtype), head, (in_channels, 8, 8))


SHORT = TransformConfig(max_iter=3)


def defended_model(seed: int = 0, config: TransformConfig = SHORT, **options: Any) -> DefendedModel:
    """f_a(g(x)) of the nets above, whose draws follow ``seed``."""
    return DefendedModel(classifier(), LLPGDTransform(conv_net(), config, generator=seeded(seed)), **options)


class Jumpy(nn.Module):
    """f_b that torch.fx can't trace: what it computes depends on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        features = F.relu(features) if bool(features.sum() > 0) else torch.tanh(features)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def make_draw(net: nn.Module, x: Tensor, start: Tensor, config: TransformConfig) -> Draw:
    """One evaluation g_D(x) with its trajectory, as :class:`LLPGDTransform` hands it to a backward rule."""
    y = target_class(net, x, config.objective)
    trajectory: list[Tensor] = []
    ll_pgd(net, x, y, start, config, trajectory)
    return Draw(net, x, y, start, config, 64, trajectory)
