"""The texture as an image file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

JPEG_QUALITY = 92
WEBP_QUALITY = 92
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}


def encode_texture(texture: np.ndarray, kind: str) -> bytes:
    """Encode a texture [h, w, 3] uint8 as "jpeg" (small), "png" (exact) or "webp" (smallest).

    Raises:
        ValueError: It is to be something else.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(texture)
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    elif kind == "png":
        image.save(buffer, "PNG", compress_level=4)
    elif kind == "webp":
        image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    else:
        raise ValueError(f"A texture is stored as 'jpeg', 'png' or 'webp', not {kind!r}.")
    return buffer.getvalue()
