"""Corrects a cut-out by hand: strokes that say what belongs to the person and what does not."""

from __future__ import annotations

import numpy as np

from synchuman.events import PhotoError

KEEP, ERASE = "#1fa34a", "#d83a3a"  # colours of the two brushes
DIM = 0.7  # how far what is cut away is faded in the picture that is painted on


def canvas(image: np.ndarray, cutout: np.ndarray, side: int) -> np.ndarray:
    """Return the picture to paint on: the photo, with what is cut away faded to white.

    Args:
        image: [h, w, 3 or 4] uint8, the upright photo.
        cutout: [h, w, 4] uint8, its cut-out.
        side: Longest side of the result in pixels.

    Returns:
        [h', w', 3] uint8 with the photo's proportions.
    """
    from PIL import Image

    from synchuman.photo.matting import opaque

    away = DIM * (1 - cutout[..., 3:].astype(np.float32) / 255)
    faded = opaque(image) * (1 - away) + 255 * away
    picture = Image.fromarray(np.rint(faded).astype(np.uint8))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def apply_strokes(image: np.ndarray, cutout: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """Return the cut-out with the strokes' say.

    Args:
        image: [h, w, 3 or 4] uint8, the upright photo.
        cutout: [h, w, 4] uint8, its cut-out, straight alpha.
        strokes: [h', w', 4] uint8, transparent but for strokes in `KEEP` (more green than red) and `ERASE`,
            with the photo's proportions at any size.

    Returns:
        [h, w, 4] uint8, straight alpha; kept pixels have the photo's own colours.

    Raises:
        PhotoError: Nothing is left of the person, or nothing but the person.
    """
    from PIL import Image

    from synchuman.photo.matting import has_cutout, opaque

    height, width = image.shape[:2]
    scaled = np.asarray(Image.fromarray(strokes).resize((width, height), Image.Resampling.BILINEAR))
    amount = scaled[..., 3].astype(np.float32) / 255
    keeps = scaled[..., 1].astype(int) > scaled[..., 0]
    keep, erase = amount * keeps, amount * ~keeps
    before = cutout[..., 3].astype(np.float32) / 255
    alpha = np.maximum(before, keep) * (1 - erase)
    added = (keep * (1 - before))[..., None]
    colours = cutout[..., :3] * (1 - added) + opaque(image) * added
    result = np.dstack([np.rint(colours), np.rint(alpha * 255)]).astype(np.uint8)
    if not (result[..., 3] >= 128).any():
        raise PhotoError("Nothing is left of the person; paint over what should stay in green.")
    if not has_cutout(result):
        raise PhotoError("Nearly the whole photo is kept; paint over the background in red.")
    return result
