"""Soft studio light: a key and a fill light that stand with the camera, sky, creases in shade."""

from __future__ import annotations

import cv2
import numpy as np

# Directions in the camera's frame (right, up, toward it), and strengths; straight on they sum to about 1.
KEY, KEY_STRENGTH = np.array([-0.45, 0.55, 0.70], np.float32), 0.44
FILL, FILL_STRENGTH = np.array([0.70, 0.10, 0.70], np.float32), 0.20
SKY, GROUND = 0.58, 0.40
WRAP = 0.35  # how far light reaches around the terminator
RADIUS = 0.022  # of what shades a crease, units of the cube
CREASE, CREASE_FULL = 0.001, 0.022  # depth below the neighbourhood
DARKEST = 0.34


def lit(color: np.ndarray, normals: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """Light colours.

    Args:
        color: [n, 3] in 0..255.
        normals: [n, 3] unit normals in the camera's frame.
        shade: [n] in 0..1, from `occlusion`.
    """
    light = GROUND + (SKY - GROUND) * (normals[:, 1] * 0.5 + 0.5)
    for direction, strength in ((KEY, KEY_STRENGTH), (FILL, FILL_STRENGTH)):
        cosine = normals @ (direction / np.linalg.norm(direction))
        light = light + strength * np.clip((cosine + WRAP) / (1 + WRAP), 0, None)
    return np.minimum(color * (light * (1 - shade))[:, None], 255)


def occlusion(depth: np.ndarray, scale: float) -> np.ndarray:
    """Estimate from a depth map how much of the light its neighbourhood takes from every pixel.

    Args:
        depth: [h, w] float32, larger is nearer, -inf where there is nothing.
        scale: Pixels per unit of the cube.

    Returns:
        [h, w] float32 in 0..DARKEST.
    """
    covered = (depth > -np.inf).astype(np.float32)
    filled = np.where(covered > 0, depth, 0).astype(np.float32)
    total = np.zeros_like(filled)
    for radius in (RADIUS / 3, RADIUS):
        sigma = max(radius * scale, 0.5)
        around = _blur(filled, sigma) / np.maximum(_blur(covered, sigma), 1e-3)
        total += np.clip((around - filled - CREASE) / CREASE_FULL, 0, 1)
    return total * (DARKEST / 2) * covered


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian; wide ones on a smaller image, which they do not tell apart."""
    step = max(int(sigma / 3), 1)
    small = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return cv2.resize(blurred, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
