"""Pictures of a finished model for the page: beside the photo, and from all around on one sheet."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from synchuman.surface.formats.turntable import around
from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.preview import render

COLUMNS = 6  # of the sheet of a turntable
FRAMES = 36
FRAME_SIDE = 360


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


def turntable_sheet(mesh: TexturedMesh, frames: int = FRAMES, side: int = FRAME_SIDE) -> bytes:
    """Return the model from all around as one WebP: `COLUMNS` pictures a row, `side` pixels each."""
    sheet = Image.new("RGBA", (side * COLUMNS, side * -(-frames // COLUMNS)))
    for i, picture in enumerate(around(mesh, frames, side)):
        sheet.paste(Image.fromarray(picture), (i % COLUMNS * side, i // COLUMNS * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue()


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
