"""L4: a bank of transformed training images, for epochs that are not to pay for g again."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from art_advtransform.config import check_count
from art_advtransform.layer import LLPGDTransform
from art_advtransform.randomness import keyed_generator, usual_device
from art_advtransform.transform import random_start

logger = logging.getLogger(__name__)

# Images that are transformed between two calls of the progress callback, and that one process takes at a time.
_CHUNK = 500
# Marks the bank's draws of D among those that are made from the same seed.
_BANK = 3


class TransformBank:
    """g(x) of all training images in half precision (rounded by at most 2^-11), D drawn afresh every ``redraw_every`` epochs.

    Called with the number of an epoch, it gives that epoch's images. What D is depends on the seed, the draw and the image
    alone: a training that is resumed sees the very images of one that was not.

    Args:
        transform: g.
        x: the training images, shape (n, C, H, W), before augmentation.
        redraw_every: epochs that use a draw.
        seed: of the draws.
        path: a file that keeps the draw for a training that is resumed; ``None``: memory alone.
        accelerator: the processes that share the work; ``None``: this one.
        on_progress: called with (images done, all images).

    Raises:
        ValueError: if ``redraw_every`` is not positive.

    Example:
        >>> from art_advtransform.networks import SmallVGG
        >>> bank = TransformBank(LLPGDTransform(SmallVGG()), torch.rand(4, 3, 32, 32), redraw_every=2)
        >>> bank(0).shape, bank(0).dtype
        (torch.Size([4, 3, 32, 32]), torch.float16)
        >>> torch.equal(bank(0), bank(1)), torch.equal(bank(1), bank(2))
        (True, False)
    """

    def __init__(
        self,
        transform: LLPGDTransform,
        x: Tensor,
        redraw_every: int,
        seed: int = 0,
        path: str | os.PathLike[str] | None = None,
        accelerator: Accelerator | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        check_count("redraw_every", redraw_every)
        self.transform, self.x, self.redraw_every, self.seed = transform, x, redraw_every, seed
        self.path = None if path is None else Path(path)
        self.accelerator, self.on_progress = accelerator, on_progress
        self._draw, self._images = -1, torch.empty(0)
        self._of = "" if path is None else self._identity()

    @usual_device()
    def __call__(self, epoch: int) -> Tensor:
        """The images of the epoch, half precision, shape of ``x``."""
        draw = epoch // self.redraw_every
        if draw != self._draw:
            self._images = torch.empty(0)  # before the next one needs the memory
            self._images = self._load(draw)
            self._draw = draw
        return self._images

    def close(self) -> None:
        """Remove the file."""
        if self.path is not None and self._main:
            self.path.unlink(missing_ok=True)

    def _identity(self) -> str:
        """sha256 of what a draw on file hangs on, beside its number: the images, f_b, how g works, and the seed."""
        found = hashlib.sha256(f"{self.transform.config} {self.seed}".encode())
        for tensor in (self.x, *self.transform.model.state_dict().values()):
            found.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @property
    def _main(self) -> bool:
        return self.accelerator is None or self.accelerator.is_main_process

    def _load(self, draw: int) -> Tensor:
        """The draw on file, else a new one."""
        found = self._read(draw)
        if self.accelerator is not None:
            # all processes read, or all draw: no one may wait for another that doesn't come
            everywhere = torch.tensor(float(found is not None), device=self.accelerator.device)
            if float(self.accelerator.reduce(everywhere, "mean")) < 1:
                found = None
        if found is not None:
            return found
        images = self._make(draw)
        if self.path is not None and self._main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.path.with_suffix(".partial")
            save_file({"g": images}, scratch, metadata=self._metadata(draw))
            scratch.replace(self.path)
        return images

    def _read(self, draw: int) -> Tensor | None:
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                if file.metadata() != self._metadata(draw):
                    return None
                images: Tensor = file.get_tensor("g")
        except (OSError, SafetensorError) as error:
            logger.warning("damaged bank %s (%s): drawn again", self.path, error)
            return None
        return images

    def _metadata(self, draw: int) -> dict[str, str]:
        return {"draw": str(draw), "of": self._of}

    def _make(self, draw: int) -> Tensor:
        several = self.accelerator
        rank, processes = (0, 1) if several is None else (several.process_index, several.num_processes)
        images = torch.zeros(self.x.shape, dtype=torch.float16)
        config = self.transform.config
        for chunk, rows in enumerate(torch.arange(len(self.x)).split(_CHUNK)):
            if chunk % processes != rank:
                continue
            x = self.x[rows]
            generator = keyed_generator(self.seed, draw, _BANK, chunk)
            start = random_start(x, config.eps, generator) if config.random_start else torch.zeros_like(x)
            with torch.no_grad():
                images[rows] = self.transform(x, start).half()
            if self.on_progress is not None and rank == 0:
                self.on_progress(int(rows[-1]) + 1, len(self.x))
        if several is not None and processes > 1:
            # every process has zeros where another one transforms
            images = several.reduce(images.to(several.device), "sum").cpu()
        return images
