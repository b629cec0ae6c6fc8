"""The other systems of Tables 3 and 6, as modules from images to logits, and the attacks that their rows share.

They are ART's preprocessors, and pruning of activations. Feature denoising and metric learning are options of training:
``ResNet18(denoising=True)``, the role "metric".

ART's preprocessors compute in NumPy; here each is one differentiable step whose backward is its ``estimate_gradient``: the
identity, or for thermometer encoding what is said there, so that every attack of the catalogue is BPDA on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_identity
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.torchattacks_attacks import NB_TARGETS_WITHOUT_G, auto_pgd

_AUTOATTACK_STEPS = 100
NB_ALONG_GRADIENTS = 3


def along_gradients(max_iter: int, climb: int, draws: int) -> list[Attack]:
    """On all rows, ``NB_ALONG_GRADIENTS`` of them: along BPDA-I gradients, or what a system has instead; on a bare net, its own.

    Args:
        max_iter: steps.
        climb: steps of momentum PGD, one draw each.
        draws: a step of plain PGD.
    """
    return [
        bpda_identity(max_iter, draws),
        momentum_pgd(climb),
        expectation_pgd(max_iter, 4, momenta=(0.0, 0.9), continues=False),
    ]


def of_many_draws(max_iter: int, draws: int = 16, *, continues: bool = False) -> Attack:
    """For what is so noisy that a few draws don't tell where to go (Athalye et al. 2018).

    Args:
        max_iter: steps.
        draws: a step.
        continues: from the strongest result so far, on the survivors alone, which costs less.
    """
    return expectation_pgd(max_iter, draws, loss="ce", momenta=(0.0, 0.9), continues=continues)


def without_draws(max_iter: int) -> tuple[Attack, Attack]:
    """On what does not draw, beside the attacks of all rows: AutoAttack's by gradients, of at most its 100 steps."""
    steps = min(max_iter, _AUTOATTACK_STEPS)
    return auto_pgd(steps, 1), auto_pgd(steps, 1, "targeted", nb_targets=NB_TARGETS_WITHOUT_G)


class ArtPreprocessed(nn.Module):
    """classifier(defence(x)), with the gradient of ``defence`` as ART estimates it.

    Args:
        classifier: logits of what the defence returns.
        defence: an ``art.defences.preprocessor``.
        channels_last: whether it takes (n, H, W, C), as those without a ``channels_first`` do.
        randomized: whether it draws, from NumPy's global state.
    """

    def __init__(
        self, classifier: nn.Module, defence: Any, *, channels_last: bool = False, randomized: bool = False
    ) -> None:
        super().__init__()
        self.classifier, self.defence, self.channels_last = classifier, defence, channels_last
        self.randomized = randomized

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.defended(x))
        return logits

    def defended(self, x: Tensor) -> Tensor:
        """What the classifier sees."""
        if not self.channels_last:
            return _applied(x, self.defence)
        return _applied(x.permute(0, 2, 3, 1), self.defence).permute(0, 3, 1, 2)


def _applied(x: Tensor, defence: Any) -> Tensor:
    defended: Tensor = _Defence.apply(x, defence)
    return defended


class _Defence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, defence: Any) -> Tensor:
        ctx.defence = defence
        ctx.save_for_backward(x)
        defended, _ = defence(np.ascontiguousarray(x.detach().cpu().numpy()))
        return torch.as_tensor(np.ascontiguousarray(defended), dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        found = ctx.defence.estimate_gradient(x.cpu().numpy(), gradient.cpu().numpy())
        return torch.as_tensor(np.ascontiguousarray(found), dtype=x.dtype, device=x.device), None


class Thermometer:
    """ART's ``ThermometerEncoding``, for whole batches: ART's loop over pixels takes 50 ms a CIFAR-10 image.

    The gradient isn't ART's, which is the ramp of Athalye et al.: that passes what levels below a pixel say, and nothing of those
    above, which raising it would reach. Here every level within reach passes its own, as if the step were a slope that wide; the
    lowest, which is one for all pixels, passes none.

    Args:
        num_space: levels; a channel becomes as many.
        reach: how far an attacker can move a pixel.
    """

    def __init__(self, num_space: int, reach: float) -> None:
        self.num_space, self.reach = num_space, reach

    def __call__(self, x: np.ndarray[Any, Any], y: Any = None) -> tuple[np.ndarray[Any, Any], Any]:
        """(n, C, H, W) in [0, 1] to (n, C levels, H, W) of zeros and ones."""
        encoded = self._above(x) > 0
        encoded[:, :, 0] = True
        return encoded.reshape(len(x), -1, *x.shape[2:]).astype(x.dtype), y

    def estimate_gradient(self, x: np.ndarray[Any, Any], grad: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The gradient by the code (n, C levels, H, W) to that by the image (n, C, H, W)."""
        above = self._above(x)
        within = np.abs(above) <= self.reach
        within[:, :, 0] = False
        passed: np.ndarray[Any, Any] = (grad.reshape(above.shape) * within).sum(2)
        return passed

    def _above(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """By how much a pixel is above every level, (n, C, levels, H, W)."""
        levels = (np.arange(self.num_space) / self.num_space).astype(x.dtype)[:, None, None]
        above: np.ndarray[Any, Any] = x[:, :, None] - levels
        return above


class StochasticActivationPruning(nn.Module):
    """Stochastic activation pruning (Dhillon et al. 2018, arXiv 1803.01442) behind every ReLU of ``classifier``, at inference only.

    Of the n activations of an image ``share * n`` are sampled with replacement, with probability proportional to their size; what
    isn't drawn becomes zero, what is is divided by the probability of being drawn at all. The gradient is that of the mean, the
    identity: it loses nothing to what was not drawn, and doesn't follow the probabilities.

    Args:
        classifier: any net with ReLU modules; hooks are put on them.
        share: samples over activations.
    """

    randomized = True

    def __init__(self, classifier: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.classifier, self.share = classifier, share
        for module in classifier.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self._pruned)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def _pruned(self, module: nn.Module, inputs: Any, activations: Tensor) -> Tensor:
        if module.training:
            return activations
        flat = activations.detach().flatten(1)
        p = flat.abs() / flat.abs().sum(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
        samples = self.share * flat.shape[1]
        kept = 1 - torch.exp(samples * torch.log1p(-p.clamp_max(1 - 1e-6)))  # P(drawn at least once)
        drawn = torch.rand_like(kept) < kept
        pruned = torch.where(drawn, flat / kept.clamp_min(1e-12), 0).view_as(activations)
        return activations + (pruned - activations).detach()
