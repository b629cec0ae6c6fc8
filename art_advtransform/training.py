"""L4: one training loop for f_b, f_a, the baselines and the surrogate h; resumable, on the device that accelerate finds.

What a net is trained for is its loss: plain, adversarial (PGD), defended (on g(x), fresh D for every batch: eq. 1) or
imitation (of g: eq. 6). A new kind of training is one more function like :func:`plain_loss`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import ThreatModel, TransformConfig, check_count, check_positive
from art_advtransform.datasets import ImageSet
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator
from art_advtransform.transform import ll_pgd, random_start

logger = logging.getLogger(__name__)

Decay = Literal["constant", "cosine"]
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
OnEpoch = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """How a net is optimised; the defaults are the paper's (section 5 there): SGD, constant learning rate.

    Attributes:
        nb_epochs: passes over the training set.
        batch_size: images for each step.
        learning_rate: of SGD; ``decay`` says how it goes on after ``warmup`` epochs of linear rise.
        momentum, weight_decay: of SGD.
        decay: "constant" or "cosine" (to zero).
        warmup: epochs, may be a fraction.
        crop_padding: random crops after padding by so many pixels; 0: none.
        flip: random horizontal flips.
        seed: of the order, the augmentation, the draws and dropout.

    Raises:
        ValueError: if a number is out of range.
    """

    nb_epochs: int = 80
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay: Decay = "constant"
    warmup: float = 0.0
    crop_padding: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("nb_epochs", self.nb_epochs)
        check_count("batch_size", self.batch_size, minimum=2)
        check_positive("learning_rate", self.learning_rate)
        check_count("crop_padding", self.crop_padding, minimum=0)
        check_count("seed", self.seed, minimum=0)
        for name, value in (("momentum", self.momentum), ("weight_decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"expected {name} >= 0, got {value}")
        if not 0 <= self.warmup < self.nb_epochs:
            raise ValueError(f"expected warmup in [0, nb_epochs={self.nb_epochs}), got {self.warmup}")
        if self.decay not in get_args(Decay):
            raise ValueError(f"unknown decay {self.decay!r}; known: {', '.join(get_args(Decay))}")

    def learning_rate_at(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs (a fraction within one): a formula, so that resuming needs no state."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        if self.decay == "constant":
            return self.learning_rate
        done = (epoch - self.warmup) / (self.nb_epochs - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def plain_loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy on clean images."""
    return F.cross_entropy(model(x), y)


def adversarial_loss(threat: ThreatModel, max_iter: int = 7, eps_step: float | None = None) -> Loss:
    """Cross-entropy on PGD examples (Madry et al. 2018, arXiv 1706.06083): the same PGD, ascending at the true label.

    Args:
        threat: budget of the attack.
        max_iter: steps; 1 is FGSM with a random start (Wong et al. 2020, arXiv 2001.03994).
        eps_step: step length; ``None`` means 2.5 eps / max_iter, and 1.25 eps for a single step.
    """
    step = (1.25 if max_iter == 1 else 2.5 / max_iter) * threat.eps if eps_step is None else eps_step
    config = TransformConfig(threat.eps, step, max_iter, objective="most_likely", clip_values=threat.clip_values)

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()  # the attack leaves the batch statistics alone
        attacked = ll_pgd(model, x, y, random_start(x, threat.eps, generator), config)
        model.train()
        return F.cross_entropy(model(attacked), y)

    return loss


def defended_loss(transform: LLPGDTransform) -> Loss:
    """Cross-entropy of f_a(g(x)), D drawn anew for every batch (eq. 1)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            g = transform(x, _fresh_start(transform, x, generator))
        return F.cross_entropy(model(g), y)

    return loss


def imitation_loss(transform: LLPGDTransform) -> Loss:
    """Mean squared distance of h(x, D) to g_D(x) (eq. 6), in units of eps^2."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        start = _fresh_start(transform, x, generator)
        with torch.no_grad():
            g = transform(x, start)
        return F.mse_loss(model(x, start), g) / transform.config.eps**2

    return loss


def _fresh_start(transform: LLPGDTransform, x: Tensor, generator: torch.Generator) -> Tensor:
    """D as the defence draws it, but from the epoch's generator; zero where the configuration has no random start."""
    config = transform.config
    return random_start(x, config.eps, generator) if config.random_start else torch.zeros_like(x)


def fit_surrogate(
    transform: LLPGDTransform,
    data: ImageSet,
    recipe: Recipe | None = None,
    *,
    width: int = 32,
    depth: int = 4,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
) -> FCN:
    """Train h(x, D) to imitate g_D(x) (eq. 6), for ``gradient=Reparameterized(h)``.

    Args:
        transform: g.
        data: the images to imitate it on.
        recipe: how; ``None``: 20 epochs of SGD with a cosine decay.
        width, depth: of h, a :class:`~art_advtransform.networks.FCN`.
        checkpoint, on_epoch: as for :func:`fit`.

    Returns:
        h in eval mode.
    """
    recipe = Recipe(20, decay="cosine", crop_padding=0, flip=False) if recipe is None else recipe
    with global_seed(derived_seed(recipe.seed)):
        h = FCN(data.x.shape[1], transform.config.eps, width, depth)
    fit(h, data, imitation_loss(transform), recipe, checkpoint=checkpoint, on_epoch=on_epoch)
    return h


def fit(
    model: nn.Module,
    data: ImageSet,
    loss: Loss,
    recipe: Recipe,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[float]:
    """Train ``model`` in place, and leave it in eval mode.

    The randomness of an epoch depends on ``recipe.seed`` and its number alone: a run that was killed and goes on from its
    checkpoint ends with the very weights of one that was not.

    Args:
        model: any nn.Module that ``loss`` can call.
        data: training images and labels.
        loss: scalar loss of a batch (model, x, y, generator).
        recipe: how to optimise.
        checkpoint: a file written after every epoch and resumed from; ``None`` for none.
        on_epoch: called after every epoch with (epochs done, all epochs, mean loss).

    Returns:
        The mean training loss of every epoch.

    Raises:
        ValueError: if the training set is smaller than a batch, the checkpoint is damaged, of another recipe or network.
        FloatingPointError: if the loss is no longer finite.
    """
    if len(data) < recipe.batch_size:
        raise ValueError(f"expected at least batch_size={recipe.batch_size} images, got {len(data)}")
    accelerator = Accelerator()
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    saved = None if checkpoint is None else _Checkpoint(Path(checkpoint), recipe)
    losses = [] if saved is None else saved.load(model, optimizer)
    for epoch in range(len(losses), recipe.nb_epochs):
        with global_seed(derived_seed(recipe.seed, epoch, 0)):  # dropout
            losses.append(_epoch(model, data, loss, recipe, optimizer, epoch, accelerator))
        if saved is not None:
            saved.save(model, optimizer, losses)
        if on_epoch is not None:
            on_epoch(len(losses), recipe.nb_epochs, losses[-1])
    model.eval()
    return losses


def _epoch(
    model: nn.Module,
    data: ImageSet,
    loss: Loss,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    accelerator: Accelerator,
) -> float:
    """One pass over the data; the mean loss."""
    model.train()
    generator = keyed_generator(recipe.seed, epoch, 1)
    # the last, smaller batch is left out: its images come up in another epoch
    batches = torch.randperm(len(data), generator=generator).split(recipe.batch_size)
    batches = batches[: len(data) // recipe.batch_size]
    total = 0.0
    for i, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(epoch + i / len(batches))
        x = augment(data.x[batch], recipe, generator)
        x = x.to(device=accelerator.device).contiguous(memory_format=torch.channels_last)
        value = loss(model, x, data.y[batch].to(accelerator.device), generator)
        optimizer.zero_grad()
        accelerator.backward(value)
        optimizer.step()
        total += value.item()
    if not math.isfinite(total):
        raise FloatingPointError(f"the loss is no longer finite in epoch {epoch + 1}: lower the learning rate")
    return total / len(batches)


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Random crops and flips, another for every image (torchvision's batch transforms share one)."""
    n, _, height, width = x.shape
    if recipe.flip:
        flipped = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        x = torch.where(flipped, x.flip(3), x)
    if recipe.crop_padding:
        padded = F.pad(x, [recipe.crop_padding] * 4)
        corner = torch.randint(0, 2 * recipe.crop_padding + 1, (2, n, 1), generator=generator)
        rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
        image = torch.arange(n)[:, None, None]
        x = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return x


class _Checkpoint:
    """Model, momentum and history in one safetensors file: replaced whole after every epoch, and never a pickle."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, json.dumps(asdict(recipe), sort_keys=True)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
        for i, state in optimizer.state_dict()["state"].items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{i}"] = state["momentum_buffer"].contiguous()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".partial")
        save_file(tensors, scratch, metadata={"recipe": self.recipe, "losses": json.dumps(losses)})
        scratch.replace(self.path)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        """Put the model and optimizer where the file left them; the losses of the epochs done."""
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"damaged checkpoint {self.path}: {error}; delete it to start anew") from error
        if metadata.get("recipe") != self.recipe:
            raise ValueError(f"checkpoint {self.path} was made with another recipe; delete it to start anew")
        try:
            model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        except RuntimeError as error:
            raise ValueError(f"checkpoint {self.path} is of another network; delete it to start anew") from error
        state = optimizer.state_dict()
        state["state"] = {
            int(k.removeprefix("momentum.")): {"momentum_buffer": v}
            for k, v in tensors.items()
            if k.startswith("momentum.")
        }
        optimizer.load_state_dict(state)
        losses: list[float] = json.loads(metadata["losses"])
        logger.info("going on after epoch %d of %s", len(losses), self.path)
        return losses
