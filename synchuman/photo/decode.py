"""Bytes of a photo to an upright image, with everything refused that is not a photo of sane size."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

from synchuman.events import PhotoError

LOGGER = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
MIN_SIDE = 16

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
READABLE = "Please use a JPEG, PNG, WebP or HEIC photo."


def sniff(data: bytes) -> str:
    """Return "JPEG", "PNG", "WEBP" or "HEIF" by the first bytes; the file's name is never asked.

    Raises:
        PhotoError: The bytes are none of these.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        return "HEIF"
    raise PhotoError(f"This file is not a photo that can be read. {READABLE}")


def decode(data: bytes) -> np.ndarray:
    """Decode a photo.

    Animations give their first frame, EXIF orientation and embedded colour profiles are applied, more than
    8 bits per channel are reduced to 8.

    Args:
        data: The file's bytes: JPEG, PNG, WebP or HEIC.

    Returns:
        Upright sRGB image, uint8: [h, w, 4], straight alpha, when a pixel is transparent, else [h, w, 3].

    Raises:
        PhotoError: Not such a file, broken, or larger than `MAX_BYTES` or `MAX_PIXELS`; sizes are checked
            before any pixel is decoded.
    """
    if not data:
        raise PhotoError("The file is empty. Please choose the photo again.")
    if len(data) > MAX_BYTES:
        raise PhotoError(
            f"The file has {len(data) / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB allowed. "
            "Please save the photo smaller and try again."
        )
    kind = sniff(data)
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                check_size(*image.size)
                image.seek(0)
                image.load()
                return to_array(to_srgb(upright(image)))
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(too_many_pixels()) from error
    except Exception as error:  # parsers of hostile bytes raise anything: struct, zlib, syntax, memory errors
        LOGGER.info("Photo of %d bytes (%s) not decoded: %s", len(data), kind, type(error).__name__)
        raise PhotoError(
            "The photo is damaged or incomplete and cannot be opened. Please save or send it again, "
            "or take a screenshot of it."
        ) from error


def too_many_pixels() -> str:
    """Sentence for photos above the limit."""
    return (
        f"The photo has more than {MAX_PIXELS // 10**6} megapixels. Please save it smaller and try again; "
        "2000 pixels of height are plenty."
    )


def check_size(width: int, height: int) -> None:
    """Raise PhotoError when an image of this size in pixels should not be decoded."""
    if width * height > MAX_PIXELS:
        raise PhotoError(too_many_pixels())
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"The photo is only {width} x {height} pixels. Please use a larger one.")


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation 1 to 8; an unreadable EXIF block counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF is a hostile little file of its own; the pixels are fine without it
        LOGGER.info("EXIF ignored: %s", type(error).__name__)
        return image


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit sRGB, with alpha where the file has some."""
    if image.mode.startswith("I"):  # 16-bit grey, or 32-bit integers that hold it
        levels = np.asarray(image).astype(np.int64)
        if levels.max(initial=0) > 255 or "16" in image.mode:
            levels = levels >> 8
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return image.convert("L").convert("RGB")
    profile = image.info.get("icc_profile")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        managed = apply_profile(image, profile)
        if managed is not None:
            return managed
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def apply_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert from an embedded ICC profile to sRGB; None when it is broken or of another colour space."""
    try:
        converted = ImageCms.profileToProfile(
            image.convert("RGB") if image.mode == "RGBA" else image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        LOGGER.info("Colour profile ignored: %s", error)
        return None
    if converted is not None and image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def to_array(image: Image.Image) -> np.ndarray:
    """RGB or RGBA pixels; an alpha channel that is opaque everywhere is dropped."""
    pixels = np.array(image)
    if pixels.shape[2] == 4 and pixels[..., 3].min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return pixels


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink [h, w, 3 or 4] uint8 to at most `side` pixels a side; smaller photos stay as they are."""
    longest = max(image.shape[:2])
    if longest <= side:
        return image
    size = max(round(image.shape[1] * side / longest), 1), max(round(image.shape[0] * side / longest), 1)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
