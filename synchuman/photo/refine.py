"""From a rough mask to a clean edge: alpha that follows the photo, colours without the background."""

from __future__ import annotations

import cv2
import numpy as np

BAND = 0.008  # half width of the soft border, of the longer side of the photo
EDGE_VARIANCE = 2e-4  # of colours in [0, 1]: what the guided filter takes for an edge
NEAR, FAR = 1.0, 4.0  # windows of the two foreground passes, in bands


def soft_alpha(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Let a mask's edge follow the photo's edges within a narrow band; outside of the band it stays 0 or 1.

    Guided filter of the mask by the photo's colours (He, Sun, Tang 2013, equation 19).

    Args:
        rgb: [h, w, 3] uint8.
        mask: [h, w] float32 in [0, 1].

    Returns:
        [h, w] float32 in [0, 1].
    """
    band = max(round(BAND * max(rgb.shape[:2])), 2)
    inside = cv2.GaussianBlur(mask, (0, 0), band / 3) > 0.5  # rounds off the steps of the coarse mask
    top, bottom, left, right = extent(inside, 4 * band)
    if top == bottom:
        return np.zeros(mask.shape, np.float32)
    part = inside[top:bottom, left:right].astype(np.uint8)
    guide = rgb[top:bottom, left:right].astype(np.float32) / 255
    filtered = guided_filter(guide, part.astype(np.float32), band, EDGE_VARIANCE)
    filtered = np.clip((filtered - 0.3) / 0.6, 0, 1)  # to reach 0 and 1; a little inward, against halos
    signed = cv2.distanceTransform(part, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - part, cv2.DIST_L2, 5)
    filtered = np.minimum(filtered, np.clip(signed / band + 1, 0, 1))
    filtered = np.maximum(filtered, np.clip(signed / band, 0, 1))
    alpha = np.zeros(mask.shape, np.float32)
    alpha[top:bottom, left:right] = filtered
    return alpha


def extent(mask: np.ndarray, room: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a mask's box with room around it, in the image; zeros when empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    top, left = max(int(rows[0]) - room, 0), max(int(columns[0]) - room, 0)
    return (
        top,
        min(int(rows[-1]) + room + 1, mask.shape[0]),
        left,
        min(int(columns[-1]) + room + 1, mask.shape[1]),
    )


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, variance: float) -> np.ndarray:
    """Smooth `values` [h, w] so that they jump only where `guide` [h, w, 3] does; all float32."""

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    red, green, blue = cv2.split(guide)
    channels = (red, green, blue)
    mean_guide = [mean(c) for c in channels]
    mean_values = mean(values)
    covariance = [mean(c * values) - m * mean_values for c, m in zip(channels, mean_guide)]
    s = {
        (i, j): mean(channels[i] * channels[j]) - mean_guide[i] * mean_guide[j] + (variance if i == j else 0)
        for i in range(3)
        for j in range(i, 3)
    }
    # Inverse of the symmetric 3 x 3 matrix of colour variances, by cofactors.
    c00 = s[1, 1] * s[2, 2] - s[1, 2] ** 2
    c01 = s[0, 2] * s[1, 2] - s[0, 1] * s[2, 2]
    c02 = s[0, 1] * s[1, 2] - s[0, 2] * s[1, 1]
    c11 = s[0, 0] * s[2, 2] - s[0, 2] ** 2
    c12 = s[0, 1] * s[0, 2] - s[0, 0] * s[1, 2]
    c22 = s[0, 0] * s[1, 1] - s[0, 1] ** 2
    determinant = s[0, 0] * c00 + s[0, 1] * c01 + s[0, 2] * c02
    x, y, z = covariance
    slopes = [
        (c00 * x + c01 * y + c02 * z) / determinant,
        (c01 * x + c11 * y + c12 * z) / determinant,
        (c02 * x + c12 * y + c22 * z) / determinant,
    ]
    offset = mean_values - sum(a * m for a, m in zip(slopes, mean_guide))
    return sum((mean(a) * c for a, c in zip(slopes, channels)), mean(offset))


def foreground_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours of the person without the background's share, so that no halo stays at the edge.

    Two passes of blurred fusion (Forte 2021, "Approximate Fast Foreground Colour Estimation").

    Args:
        rgb: [h, w, 3] uint8.
        alpha: [h, w] float32 in [0, 1].

    Returns:
        [h, w, 3] uint8: the photo where alpha is 1.
    """
    band = max(BAND * max(rgb.shape[:2]), 2)
    soft = (alpha > 0) & (alpha < 1)
    top, bottom, left, right = extent(soft, round(2 * FAR * band))
    if top == bottom:
        return rgb.copy()
    part = alpha[top:bottom, left:right, None]
    photo = rgb[top:bottom, left:right].astype(np.float32) / 255
    foreground, background = photo, photo
    for windows in (FAR, NEAR):
        foreground, background = fuse(photo, part, foreground, background, round(windows * band))
    result = rgb.copy()
    mixed = (part[..., 0] < 1)[..., None]
    result[top:bottom, left:right] = np.where(mixed, np.rint(foreground * 255), photo * 255 + 0.5).astype(
        np.uint8
    )
    return result


def fuse(
    photo: np.ndarray, alpha: np.ndarray, foreground: np.ndarray, background: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """One pass: mean colours of both layers nearby, then the foreground that explains the photo."""
    window = (2 * radius + 1, 2 * radius + 1)
    share = cv2.blur(alpha, window)[..., None]
    near_foreground = cv2.blur(foreground * alpha, window) / (share + 1e-5)
    near_background = cv2.blur(background * (1 - alpha), window) / (1 - share + 1e-5)
    rest = photo - alpha * near_foreground - (1 - alpha) * near_background
    return np.clip(near_foreground + alpha * rest, 0, 1), np.clip(near_background, 0, 1)
