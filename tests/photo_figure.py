"""A drawn person that the offline networks recognise, for tests that need one."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

SKIN, HAIR, SHIRT, TROUSERS, SHOES = (224, 172, 140), (60, 40, 30), (170, 40, 50), (40, 50, 90), (30, 30, 30)


def room(height: int, width: int) -> np.ndarray:
    """A wall with a gradient, a floor and a picture; [height, width, 3] uint8."""
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    wall = np.stack([200 - 40 * rows, 205 - 30 * columns, 190 + 20 * rows], axis=-1)
    wall[int(0.85 * height) :] = (150, 120, 90)
    wall[int(0.1 * height) : int(0.3 * height), int(0.05 * width) : int(0.2 * width)] = (90, 140, 120)
    noise = np.random.default_rng(0).normal(0, 4, wall.shape)
    return np.clip(wall + noise, 0, 255).astype(np.uint8)


def draw(photo: np.ndarray, x: float, top: float, height: float) -> np.ndarray:
    """Draw a standing person into `photo` (changed in place); returns the true mask [h, w] bool.

    `x` is the column of the body's middle, `top` the row of the head's top, `height` the body's height in pixels.
    """
    mask = np.zeros(photo.shape[:2], np.uint8)

    def at(across: float, down: float) -> tuple[int, int]:
        return round(x + across * height), round(top + down * height)

    def shape(colour: tuple[int, ...], kind: str, *points: tuple[float, float], size: float = 0.0) -> None:
        for image, value in ((photo, colour), (mask, 1)):
            pixels = [at(*point) for point in points]
            if kind == "limb":
                for start, end in pairwise(pixels):
                    cv2.line(
                        image,
                        start,
                        end,
                        value,
                        max(round(size * height), 1),
                        cv2.LINE_AA if image is photo else 8,
                    )
            elif kind == "patch":
                cv2.fillPoly(image, [np.array(pixels, np.int32)], value)
            else:
                axes = round(points[1][0] * height), round(points[1][1] * height)
                cv2.ellipse(image, pixels[0], axes, 0, 0, 360, value, -1)

    for side in (-1, 1):
        shape(TROUSERS, "limb", (side * 0.05, 0.5), (side * 0.06, 0.72), (side * 0.065, 0.93), size=0.075)
        shape(SHOES, "oval", (side * 0.075, 0.965), (0.045, 0.025))
        shape(SKIN, "limb", (side * 0.125, 0.2), (side * 0.16, 0.36), (side * 0.165, 0.49), size=0.04)
        shape(SHIRT, "limb", (side * 0.115, 0.2), (side * 0.155, 0.33), size=0.06)
        shape(SKIN, "oval", (side * 0.166, 0.515), (0.02, 0.032))
    shape(
        SHIRT,
        "patch",
        (-0.13, 0.185),
        (-0.04, 0.165),
        (0.04, 0.165),
        (0.13, 0.185),
        (0.1, 0.36),
        (0.1, 0.53),
        (-0.1, 0.53),
        (-0.1, 0.36),
    )
    shape(HAIR, "oval", (0, 0.06), (0.058, 0.062))
    shape(SKIN, "limb", (0, 0.1), (0, 0.165), size=0.05)
    shape(SKIN, "oval", (0, 0.075), (0.046, 0.062))
    shape(HAIR, "patch", (-0.045, 0.05), (-0.03, 0.015), (0.03, 0.015), (0.045, 0.05), (0, 0.03))
    for side in (-1, 1):
        shape((250, 250, 250), "oval", (side * 0.018, 0.07), (0.01, 0.006))
        shape((40, 30, 30), "oval", (side * 0.018, 0.07), (0.005, 0.006))
        shape(HAIR, "limb", (side * 0.008, 0.057), (side * 0.029, 0.056), size=0.005)
    shape((190, 130, 105), "limb", (0, 0.072), (0.004, 0.09), size=0.006)
    shape((170, 70, 70), "limb", (-0.016, 0.108), (0.016, 0.108), size=0.008)
    return mask > 0


def figure(height: int = 800, width: int = 600, **place: float) -> tuple[np.ndarray, np.ndarray]:
    """A photo [height, width, 3] uint8 of one person in a room, and the person's true mask."""
    photo = room(height, width)
    mask = draw(
        photo, place.get("x", width / 2), place.get("top", 0.1 * height), place.get("tall", 0.8 * height)
    )
    return cv2.GaussianBlur(photo, (0, 0), 1.0), mask
