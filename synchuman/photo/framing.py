"""Framing of a cut-out person for the networks: multiview canvas, its face close-up, and token image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from synchuman.events import PhotoError
from synchuman.views import FACE_COLUMNS, FACE_ROWS

PUBLISHED_CANVAS = 768
PUBLISHED_TOKENS = 518
TOKEN_ALPHA = 204  # 0.8 * 255: what counts as the person in the token image
TOKEN_MARGIN = 1.2


def bounding_box(alpha: np.ndarray, above: int) -> tuple[int, int, int, int]:
    """Extremes (left, top, right, bottom), all inclusive, of `alpha` [h, w] greater than `above`.

    Raises:
        PhotoError: No pixel is.
    """
    columns = np.flatnonzero((alpha > above).any(axis=0))
    rows = np.flatnonzero((alpha > above).any(axis=1))
    if not len(columns):
        raise PhotoError("The cut-out is empty: nobody is left in it. Please use another photo.")
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def frame_multiview(rgba: np.ndarray, size: int = PUBLISHED_CANVAS) -> tuple[np.ndarray, np.ndarray]:
    """Centre the person so that the longer side spans the canvas, and enlarge the face.

    The box of alpha > 0 is taken without its last row and column, as the published model was trained.

    Args:
        rgba: [h, w, 4] uint8, straight alpha.
        size: Side of the result in pixels.

    Returns:
        (canvas, face), both [size, size, 4] uint8, straight alpha, transparent where the photo has nothing.
        The face is the part `views.FACE_COLUMNS` x `views.FACE_ROWS` of the canvas.
    """
    left, top, right, bottom = bounding_box(rgba[..., 3], 0)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    person = Image.fromarray(rgba).crop((left, top, right, bottom))
    scale = size / max(person.size)
    width, height = (max(int(side * scale), 1) for side in person.size)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(person.resize((width, height)), ((size - width) // 2, (size - height) // 2))
    (left, right), (top, bottom) = (
        [round(size * part) for part in parts] for parts in (FACE_COLUMNS, FACE_ROWS)
    )
    face = canvas.crop((left, top, right, bottom)).resize((size, size))
    return np.array(canvas), np.array(face)


def frame_sharp(rgba: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame at the published size, then shrink, so that a small variant's face keeps the photo's detail.

    Arguments, results and errors as `frame_multiview`; the same at the published size.
    """
    framed = frame_multiview(rgba, PUBLISHED_CANVAS)
    if size == PUBLISHED_CANVAS:
        return framed
    canvas, face = (Image.fromarray(f).resize((size, size), Image.Resampling.BICUBIC) for f in framed)
    return np.asarray(canvas), np.asarray(face)


def frame_tokens(rgba: np.ndarray, size: int = PUBLISHED_TOKENS) -> np.ndarray:
    """Centre the person with a margin of a fifth on black, for the image encoder.

    Args:
        rgba: [h, w, 4] uint8, straight alpha.
        size: Side of the result in pixels.

    Returns:
        [size, size, 3] uint8.
    """
    left, top, right, bottom = bounding_box(rgba[..., 3], TOKEN_ALPHA)
    centre = (left + right) / 2, (top + bottom) / 2
    half = max(int(max(right - left, bottom - top) * TOKEN_MARGIN) // 2, 1)
    box = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    square = Image.fromarray(rgba).crop(box).resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(square).astype(np.float32) / 255
    return to_uint8(pixels[..., :3] * pixels[..., 3:])


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite [h, w, 4] uint8 with straight alpha on white; float32 [h, w, 3] in [0, 1]."""
    pixels = rgba.astype(np.float32) / 255
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + (1 - alpha)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8 as the published model's inputs are: truncated, not rounded."""
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
