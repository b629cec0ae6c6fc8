"""Memory that a process frees stays with it where it asks for that, and goes back to the system where it does not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# new pages (after the first rounds, in which the heap grows) while 64 MB are taken, written and freed again and again
_FAULTS = """
import resource, torch
from art_advtransform.allocator import keep_freed_memory
print({ask})
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")


def told_and_faults(ask: str, **environment: str) -> tuple[str, int]:
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", _FAULTS.format(ask=ask)]
    found = subprocess.run(command, env={**usual, **environment}, check=True, capture_output=True, text=True).stdout
    told, faults = found.split()
    return told, int(faults)


def test_no_page_is_asked_for_twice() -> None:
    told, faults = told_and_faults("keep_freed_memory()")
    assert told == "True"
    usual = told_and_faults("None")[1]
    # huge pages may come instead of 4 KiB ones, so that the number itself depends on the machine
    assert faults < usual / 10


def test_what_a_user_has_set_is_left_alone() -> None:
    assert told_and_faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
