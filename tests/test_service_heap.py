"""What was freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from pathlib import Path

from synchuman.serving.heap import trim_heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in l)

def block():
    address = libc.malloc(64 * 1024)
    ctypes.memset(address, 1, 64 * 1024)
    return address

blocks = [block() for _ in range(3200)]
full = resident()
for address in blocks[:-1]:  # the last one lies above all of them and keeps the heap from shrinking by itself
    libc.free(address)
freed = resident()
trim_heap()
print(full, freed, resident())
"""


def test_freed_memory_goes_back_to_the_system() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the heap is glibc's")
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    full, freed, trimmed = map(int, run.stdout.split())
    assert full - freed < 20 * 1024, "glibc gave it back by itself: the test sees nothing"
    assert full - trimmed > 180 * 1024
