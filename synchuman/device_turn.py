"""Turns on a device: of all services and commands on this machine, one computes on it at a time."""

from __future__ import annotations

import getpass
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.events import Cancelled

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

POLL = 0.2  # seconds between two looks at the stop flag
SOMEBODY = "another process"

# Told once who computes on the device that is waited for.
Waiting = Callable[[str], None]


def own_folder() -> Path:
    """Return this user's folder in the system's temporary one; it holds the files that stand for devices."""
    return Path(tempfile.gettempdir()) / f"synchuman-{getpass.getuser()}"


def device_files(devices: Iterable[torch.device], folder: Path | None = None) -> list[Path]:
    """Return the files that stand for devices; in this user's own folder unless another one is given."""
    folder = folder or own_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return sorted({folder / f"{_name(device)}.lock" for device in devices})


@contextmanager
def turn(files: Iterable[Path], who: str, stop: threading.Event, waiting: Waiting) -> Iterator[None]:
    """Hold devices for the length of a block; who had the last turn has not the next while somebody waits.

    Args:
        files: From `device_files`.
        who: What holds them, for those who wait.
        stop: Set it to give up waiting.
        waiting: Called once for every device that another process computes on.

    Raises:
        Cancelled: `stop` was set before the devices were free.
    """
    with ExitStack() as stack:
        for file in sorted(files):  # in one order for all: no two ever wait for each other
            stack.enter_context(_held(file, who, stop, waiting))
        yield


@contextmanager
def _held(file: Path, who: str, stop: threading.Event, waiting: Waiting) -> Iterator[None]:
    from filelock import FileLock

    # The kernel frees both with the process, so a killed run never leaves a device locked. Only one waits
    # for the device itself, the others at the door: who has just had a turn is behind that one.
    device, door, note = FileLock(file), FileLock(file.with_suffix(".door")), file.with_suffix(".holder")
    told = False

    def wait_for(lock: FileLock) -> None:
        nonlocal told
        while not _try(lock):
            if stop.is_set():
                raise Cancelled("It was stopped before it started.")
            if not told:
                waiting(_read(note))
            told = True

    if stop.is_set():
        raise Cancelled("It was stopped before it started.")
    wait_for(door)
    try:
        wait_for(device)
    finally:
        door.release()
    try:
        note.write_text(f"{who} (process {os.getpid()})")
        yield
    finally:
        note.unlink(missing_ok=True)
        device.release()


def _try(lock: FileLock) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=POLL)
    except Timeout:
        return False
    return True


def _read(note: Path) -> str:
    try:
        return note.read_text() or SOMEBODY
    except OSError:
        return SOMEBODY


def _name(device: torch.device) -> str:
    """Return the name of the file that stands for a device, without its ending."""
    import torch

    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    # Numbers depend on CUDA_VISIBLE_DEVICES; the identifier is the card's own.
    return f"cuda-{getattr(properties, 'uuid', device.index or 0)}"
