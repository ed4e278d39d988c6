"""Times what runs on a device, and its peak memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

GIB = 2**30


def milliseconds(call: Callable[[], Any], device: torch.device, repeats: int, warm: int = 2) -> float:
    """Return the median time of a call; each is waited for."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Return the time of one call."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what nothing uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Fill in, after the block, its peak memory in GiB: allocated by tensors, and reserved in all."""
    found: dict[str, float] = {}
    free(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        found["before"] = round(torch.cuda.memory_allocated(device) / GIB, 2)
    yield found
    if device.type == "cuda":
        found["allocated"] = round(torch.cuda.max_memory_allocated(device) / GIB, 2)
        found["reserved"] = round(torch.cuda.max_memory_reserved(device) / GIB, 2)
