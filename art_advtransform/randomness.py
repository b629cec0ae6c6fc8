"""L0: where randomness comes from: private generators, never global state, except inside :func:`global_seed`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch


def private_generator(generator: torch.Generator | None, device: torch.device | str = "cpu") -> torch.Generator:
    """``generator`` itself, or a new one seeded by the operating system, whose draws can't be guessed."""
    if generator is not None:
        return generator
    fresh = torch.Generator(device=device)
    fresh.seed()
    return fresh


def derived_seed(*key: int) -> int:
    """A 63-bit seed that depends on the whole ``key``; different keys give independent streams (numpy's SeedSequence)."""
    # numpy pads short keys with zeros, so that (1,) and (1, 0) would be one stream: the length and two words for each number
    words = [word for number in key for word in (number & 0xFFFFFFFF, number >> 32)]
    return int(np.random.SeedSequence([len(key), *words]).generate_state(1, np.uint64)[0] >> 1)


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator for ``key``, non-negative integers such as (seed, purpose, image): the same on every machine.

    Example:
        >>> a, b = keyed_generator(0, 1), keyed_generator(0, 2)
        >>> bool(torch.rand(1, generator=a) == torch.rand(1, generator=b))
        False
    """
    return torch.Generator().manual_seed(derived_seed(*key))


@contextmanager
def usual_device() -> Iterator[None]:
    """A context, or decorator, in which what has no device is made on the CPU, whatever ``torch.set_default_device`` says.

    Draws are made there and moved, so that they are the same on every machine; a CPU's generator draws for no other device.
    """
    with nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu"):
        yield


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and put them back as they were on leaving.

    For code that can't be given a generator: the toolkits' attacks, dropout.
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
