"""A small checkpoint in the published layout, written by the script that also writes one of full size."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


@cache
def script() -> ModuleType:
    """The script as a module."""
    path = ROOT / "scripts" / "random_official_checkpoint.py"
    spec = importlib.util.spec_from_file_location("random_official_checkpoint", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_small(folder: Path) -> Path:
    """Write it; return the folder."""
    return script().write_checkpoint(folder, script().SMALL)


def link(checkpoint: Path, folder: Path) -> Path:
    """Lay a checkpoint out again in a folder whose files can be replaced."""
    for path in checkpoint.rglob("*"):
        target = folder / path.relative_to(checkpoint)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return folder
