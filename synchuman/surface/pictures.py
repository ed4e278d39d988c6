"""Pictures of a finished model: beside the photo, and from all around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.preview import render

COLUMNS = 6  # of the sheet of a turntable
FRAMES = 36
FRAME_SIDE = 360
FRAME_MS = 90


def beside_photo(mesh: TexturedMesh, cutout: np.ndarray, side: int = 768) -> tuple[np.ndarray, np.ndarray]:
    """Return the cut-out photo and the model's front in the same frame, for a slider over both.

    Args:
        mesh: From `formats.read.read_glb`.
        cutout: [h, w, 4] uint8, straight alpha.
        side: Height of both pictures in pixels; they are 3/4 as wide.

    Returns:
        Two [side, 3 / 4 side, 3] uint8 pictures on the same grey, the person equally tall in both.
    """
    front = render(mesh, 0.0, side)
    return _framed(cutout, side), _framed(front, side)


def turntable(mesh: TexturedMesh, frames: int = FRAMES, side: int = FRAME_SIDE) -> Iterator[np.ndarray]:
    """Yield the model from all around, [side, side, 4] uint8 RGBA, beginning with the front."""
    for i in range(frames):
        yield render(mesh, 360.0 * i / frames, side, "shaded", supersample=2)


def write_turntable(frames: list[np.ndarray], sheet: Path, animation: Path) -> None:
    """Write a turntable as one sheet of `COLUMNS` pictures a row, and as an animated WebP."""
    pictures = [Image.fromarray(frame) for frame in frames]
    side = pictures[0].width
    whole = Image.new("RGBA", (side * COLUMNS, side * -(-len(pictures) // COLUMNS)))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % COLUMNS * side, i // COLUMNS * side))
    whole.save(sheet, "WEBP", quality=85, method=2)
    pictures[0].save(
        animation, "WEBP", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0, quality=80,
        method=2,
    )  # fmt: skip


def _framed(rgba: np.ndarray, side: int) -> np.ndarray:
    """Scale a person to nine tenths of the height, in the middle of a grey picture."""
    image = Image.fromarray(rgba)
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())
    width = side * 3 // 4
    scale = min(0.9 * side / image.height, 0.94 * width / image.width)
    image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    ground = Image.new("RGBA", (width, side), (236, 238, 238, 255))
    ground.alpha_composite(image, ((width - image.width) // 2, (side - image.height) // 2))
    return np.asarray(ground.convert("RGB"))
