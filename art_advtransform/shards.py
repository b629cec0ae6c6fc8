"""L6: several processes share an evaluation: each attacks its own chunks of images, all learn of all."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import InitProcessGroupKwargs, PartialState
from accelerate.utils import gather_object

T = TypeVar("T")


class Shards:
    """The processes that ``torchrun`` or ``accelerate launch`` started together; a process on its own is all of them.

    Example:
        >>> alone = Shards()
        >>> alone.mine(["first", "second"])
        ['first', 'second']
        >>> alone.everyones([1, 2])
        [1, 2]
    """

    def __init__(self) -> None:
        self.state: PartialState | None = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # a process waits for the others as long as their attacks take; on a CPU accelerate joins them only when told to.
            # What they tell each other are Python objects, which need no GPU (two processes may share one, where NCCL fails)
            options = InitProcessGroupKwargs(timeout=timedelta(days=7)).to_kwargs()
            if torch.cuda.is_available():
                options["backend"] = "cuda:nccl,cpu:gloo"
            self.state = PartialState(cpu=not torch.cuda.is_available(), **options)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes what there is one of."""
        return self.state is None or self.state.is_main_process

    def mine(self, items: list[T]) -> list[T]:
        """Every so manieth item, beginning with this process's number."""
        if self.state is None:
            return items
        return items[self.state.process_index :: self.state.num_processes]

    def everyones(self, items: list[T]) -> list[T]:
        """The items of all processes, in every process."""
        if self.state is None:
            return items
        gathered: list[T] = gather_object(items)
        return gathered

    def wait(self) -> None:
        """Until all are here."""
        self.everyones([])  # accelerate's own barrier is one of GPUs
