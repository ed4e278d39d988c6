"""The pictures of a run that users see while it goes, as files of the run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from synchuman.events import ViewsReady
from synchuman.views import VIEWS

PREVIEWS = "previews"


def save_views(event: ViewsReady, folder: Path) -> dict[str, list[str]]:
    """Save views as a camera would see them (two are stored mirrored), and return their names."""
    return {
        kind: [
            save_picture(image[:, ::-1] if view.mirrored else image, folder, f"{kind}_{view.name}")
            for image, view in zip(images, VIEWS)
        ]
        for kind, images in (("colors", event.colors), ("normals", event.normals))
    }


def save_picture(image: np.ndarray, folder: Path, name: str) -> str:
    """Save a picture among the previews of a run, whole at any moment; return its name there."""
    path = folder / PREVIEWS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers see the picture before or this one, never half of it.
    beside = path.with_name(f".{name}.part")
    Image.fromarray(np.ascontiguousarray(image)).save(beside, "PNG", compress_level=1)
    os.replace(beside, path)
    return inside(path, folder)


def inside(path: Path, folder: Path) -> str:
    """Return a file's name within a run's folder, as users see it."""
    return path.relative_to(folder).as_posix()
