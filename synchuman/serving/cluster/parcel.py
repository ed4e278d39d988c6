"""Files of a run on their way between machines: what is new in a folder, as bytes by name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

Files = dict[str, bytes]


class Outbox:
    """Tells which files of a folder are new or have changed since it was asked before."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder; what is in it now is known at the other end."""
        self.folder = folder
        self._sent = self._look()

    def new(self) -> Files:
        """Return them with their bytes; files that are still being written (a dot in front) are left out."""
        now = self._look()
        changed = [name for name, mark in now.items() if self._sent.get(name) != mark]
        self._sent = now
        return {name: (self.folder / name).read_bytes() for name in changed}

    def _look(self) -> dict[str, tuple[int, int]]:
        return {name: _mark(self.folder / name) for name in _names(self.folder)}


def pack(folder: Path) -> Files:
    """Return all files of a folder."""
    return {name: (folder / name).read_bytes() for name in _names(folder)}


def unpack(files: Files, folder: Path) -> None:
    """Write files into a folder; each appears whole, by renaming.

    Raises:
        ValueError: A name leads out of the folder.
    """
    root = folder.resolve()
    for name, data in files.items():
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise ValueError(f"{name!r} leads out of the run's folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(partial, path)


def _names(folder: Path) -> list[str]:
    paths = sorted(folder.rglob("*"))
    return [
        path.relative_to(folder).as_posix()
        for path in paths
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    ]


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino  # a renamed file has a number of its own
