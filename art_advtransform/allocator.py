"""L0: glibc's malloc asked to keep what is freed, for processes that are the package's own."""

from __future__ import annotations

import ctypes
import os
import platform

# As <malloc.h> numbers them, and the variable by which a user sets each himself. First the one that a glibc before 2.35 refuses:
# the others without it would be worse than none, since they end malloc's own raising of it.
_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**28),
}


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory until this process ends, instead of giving large blocks back at once.

    On a CPU every layer's activations are such a block: the system takes it, and fills the next one with zeros, page by page.
    The price is a resident set that stays at its peak. It is the whole process that changes, so that the command line asks for
    it and the library does not; `benchmarks/allocator.py` has what it gains.

    Returns:
        Whether malloc has been told: not where it isn't glibc's, nor where the environment has settings for it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in (*_SETTINGS, "GLIBC_TUNABLES")):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, value) for number, value in _SETTINGS.values())
