"""Where downloaded weights are kept, and what is remembered of them: revision, sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOME_VARIABLE = "SYNCHUMAN_HOME"
LOCK_FILE = "weights.lock.json"
CHUNK = 1 << 22


def home() -> Path:
    """Return our own folder in the user's cache; SYNCHUMAN_HOME names another."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "synchuman"


def read_lock() -> dict[str, Any]:
    """Read what was recorded at the first download, by repository: `revision` and `files` (size, sha256)."""
    path = home() / LOCK_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_lock(lock: dict[str, Any]) -> None:
    """Write the record; it appears whole or not at all."""
    path = home() / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def sha256(path: Path, tick: Callable[[int], object] = lambda count: None) -> str:
    """Return the sha256 of a file; `tick` is called with the bytes of every chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            tick(len(chunk))
    return digest.hexdigest()
