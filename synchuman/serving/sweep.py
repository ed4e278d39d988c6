"""Removes old runs and uploads: photos of people are kept no longer than needed."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path

LOGGER = logging.getLogger(__name__)


def sweep(folder: Path, max_age: float) -> int:
    """Delete the entries of `folder` whose newest file is older than `max_age` seconds; return how many."""
    if not folder.is_dir():
        return 0
    oldest = time.time() - max_age
    removed = 0
    for entry in folder.iterdir():
        files = [entry, *entry.rglob("*")] if entry.is_dir() and not entry.is_symlink() else [entry]
        if max((file.lstat().st_mtime for file in files), default=0.0) >= oldest:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        removed += 1
    return removed


def keep_swept(folders: list[Path], max_age: float, every: float = 600.0) -> threading.Event:
    """Sweep folders in the background, also what an earlier process left; set the event to end it."""
    ended = threading.Event()

    def loop() -> None:
        while True:
            for folder in folders:
                try:
                    removed = sweep(folder, max_age)
                except OSError as error:  # a file went away under our hands: the next round gets the rest
                    LOGGER.info("sweeping %s: %s", folder, error)
                    continue
                if removed:
                    LOGGER.info("removed %d old entries from %s", removed, folder)
            if ended.wait(every):
                return

    threading.Thread(target=loop, name="sweep", daemon=True).start()
    return ended
