"""L4: one training loop for f_b, f_a, the baselines and the surrogate h; resumable; devices and processes by accelerate.

What a net is trained for is its loss, a function of :mod:`art_advtransform.losses`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.checkpoint import Checkpoint
from art_advtransform.config import check_count, check_positive
from art_advtransform.datasets import ImageSet
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import Loss, imitation_loss
from art_advtransform.networks import FCN
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator, usual_device

Decay = Literal["constant", "cosine"]
Precision = Literal["no", "bf16", "fp16"]
OnEpoch = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """How a net is optimised; the defaults are the paper's (sections 4 and 5 there): SGD, constant learning rate.

    Attributes:
        nb_epochs: passes over the training set; 0 leaves the net as it was made.
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
        check_count("nb_epochs", self.nb_epochs, minimum=0)
        check_count("batch_size", self.batch_size, minimum=2)
        check_positive("learning_rate", self.learning_rate)
        check_count("crop_padding", self.crop_padding, minimum=0)
        check_count("seed", self.seed, minimum=0)
        for name, value in (("momentum", self.momentum), ("weight_decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"expected {name} >= 0, got {value}")
        if not 0 <= self.warmup < max(self.nb_epochs, 1):
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


@usual_device()
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


@usual_device()
def fit(
    model: nn.Module,
    data: ImageSet,
    loss: Loss,
    recipe: Recipe,
    *,
    images: Callable[[int], Tensor] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
    mixed_precision: Precision = "no",
    log_dir: str | os.PathLike[str] | None = None,
) -> list[float]:
    """Train ``model`` in place, on a GPU if there is one, and leave it there in eval mode.

    The randomness of an epoch depends on ``recipe.seed`` and its number alone: a run that was killed and goes on from its
    checkpoint ends, on a CPU, with the very weights of one that was not. Started by ``torchrun`` or ``accelerate launch``, every
    process takes its share of each batch; order and augmentation are those of a single process.

    Args:
        model: any nn.Module that ``loss`` can call; its images come in channels_last, so that it flattens by ``flatten`` or
            ``reshape``, not ``view``. What it makes itself it makes where its input is: a default device of torch doesn't hold
            here.
        data: training images and labels.
        loss: scalar loss of a batch (model, x, y, generator).
        recipe: how to optimise.
        images: other images for the epoch of that number, such as a :class:`~art_advtransform.bank.TransformBank`, in
            the order of ``data``; ``None``: those of ``data``.
        checkpoint: a file written after every epoch and resumed from; ``None`` for none.
        on_epoch: called after every epoch with (epochs done, all epochs, mean loss), in the main process.
        mixed_precision: of f_a's passes: "no", "bf16" or "fp16" (on a GPU).
        log_dir: folder for TensorBoard; ``None`` for none.

    Returns:
        The mean training loss of every epoch.

    Raises:
        ValueError: if the training set is smaller than a batch, the processes can't share one evenly, or the checkpoint is
            damaged, of another recipe or network.
        FloatingPointError: if the loss or a weight is no longer finite; the checkpoint of the epoch before stays.
    """
    if len(data) < recipe.batch_size:
        raise ValueError(f"expected at least batch_size={recipe.batch_size} images, got {len(data)}")
    if data.classes and not 0 <= int(data.y.min()) <= int(data.y.max()) < len(data.classes):
        raise ValueError(
            f"expected labels in [0, {len(data.classes) - 1}], got {int(data.y.min())} to {int(data.y.max())}"
        )
    accelerator = start_accelerator(mixed_precision, log_dir)
    if recipe.batch_size % accelerator.num_processes:
        raise ValueError(
            f"expected batch_size={recipe.batch_size} to divide among {accelerator.num_processes} processes"
        )
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), asdict(recipe))
    losses = [] if saved is None else saved.load(model, optimizer, accelerator.scaler)
    step = _Step(model, optimizer, loss, recipe, accelerator)
    for epoch in range(len(losses), recipe.nb_epochs):
        x = data.x if images is None else images(epoch)
        with global_seed(derived_seed(recipe.seed, epoch, 0, *_rank(accelerator))):  # dropout
            losses.append(step.epoch(x, data.y, epoch))
        accelerator.log({"loss": losses[-1], "learning_rate": recipe.learning_rate_at(epoch + 1)}, step=epoch + 1)
        if accelerator.is_main_process:
            if saved is not None:
                saved.save(model, optimizer, accelerator.scaler, losses)
            if on_epoch is not None:
                on_epoch(len(losses), recipe.nb_epochs, losses[-1])
    step.close()
    model.eval()
    return losses


def start_accelerator(mixed_precision: Precision = "no", log_dir: str | os.PathLike[str] | None = None) -> Accelerator:
    """The device, and the other processes if this one was started as one of several.

    Raises:
        ValueError: if the precision is unknown, or fp16 without a GPU.
        ModuleNotFoundError: if ``log_dir`` needs TensorBoard and it is not there.
    """
    check_precision(mixed_precision)
    if log_dir is not None and find_spec("tensorboard") is None:
        raise ModuleNotFoundError('TensorBoard is missing: pip install "art-advtransform[tensorboard]"')
    # accelerate joins processes on a CPU only when told to, and by itself would take Apple's GPU, which has no float64; an
    # evaluation in the same program waits in the group that is made here
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
        log_with=None if log_dir is None else "tensorboard",
        project_dir=log_dir,
    )
    if log_dir is not None:
        accelerator.init_trackers("training")
    return accelerator


def check_precision(mixed_precision: str) -> None:
    """Refuse what can't be trained in here.

    Raises:
        ValueError: if the precision is unknown, or fp16 without a GPU.
    """
    if mixed_precision not in get_args(Precision):
        raise ValueError(f"unknown mixed_precision {mixed_precision!r}; known: {', '.join(get_args(Precision))}")
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("expected a GPU for fp16: use bf16 or no")


def _rank(accelerator: Accelerator) -> tuple[int, ...]:
    """The end of a key of random numbers that every process draws for itself; nothing for a single process."""
    return () if accelerator.num_processes == 1 else (accelerator.process_index,)


class _Step:
    """The optimisation: epochs of steps."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        recipe: Recipe,
        accelerator: Accelerator,
    ) -> None:
        self.has_own_forward = "forward" in vars(model)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.loss, self.recipe, self.accelerator = loss, recipe, accelerator

    def epoch(self, images: Tensor, labels: Tensor, epoch: int) -> float:
        """One pass over the images; the mean loss."""
        recipe, accelerator = self.recipe, self.accelerator
        self.model.train()
        generator = keyed_generator(recipe.seed, epoch, 1)
        # several processes share the order and the augmentation, but not the draws of their losses
        rank = _rank(accelerator)
        draws = keyed_generator(recipe.seed, epoch, 2, *rank) if rank else generator
        # the last, smaller batch is left out: its images come up in another epoch
        batches = torch.randperm(len(labels), generator=generator).split(recipe.batch_size)
        batches = batches[: len(labels) // recipe.batch_size]
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        losses = []
        for i, batch in enumerate(batches):
            x = augment(images[batch].float(), recipe, generator)[share]
            x = x.to(device=accelerator.device).contiguous(memory_format=torch.channels_last)
            y = labels[batch][share].to(accelerator.device)
            losses.append(self._step(x, y, draws, recipe.learning_rate_at(epoch + i / len(batches))))
        total = torch.stack(losses).double().sum()
        if accelerator.num_processes > 1:
            # since the last forward every process has the running statistics of its own images; a checkpoint has one's
            for buffer in self.model.buffers():
                buffer.copy_(broadcast(buffer))
        mean = float(accelerator.reduce(total.to(accelerator.device, torch.float32), "mean")) / len(batches)
        # the last step of all may break the weights after the last loss was finite
        broken = [name for name, value in self.model.state_dict().items() if not bool(value.isfinite().all())]
        if broken or not math.isfinite(mean):
            what = "loss" if not math.isfinite(mean) else f"weight {broken[0]}"
            raise FloatingPointError(f"the {what} is no longer finite in epoch {epoch + 1}: lower the learning rate")
        return mean

    def _step(self, x: Tensor, y: Tensor, draws: torch.Generator, learning_rate: float) -> Tensor:
        """The loss, still where it was computed: to read it would be to wait for the GPU in every step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        value = self.loss(self.model, x, y, draws)
        self.optimizer.zero_grad()
        self.accelerator.backward(value)
        self.optimizer.step()
        return value.detach()

    def close(self) -> None:
        """Leave nothing on the net: neither gradients nor what accelerate put around it; finish the logs."""
        self.optimizer.zero_grad()
        bare = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if not self.has_own_forward:
            # accelerate puts the method back as an attribute, which a copy of the net would share with it
            vars(bare).pop("forward", None)
        # not Accelerator.end_training, which ends the processes: another net may follow
        for tracker in self.accelerator.trackers:
            tracker.finish()


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
