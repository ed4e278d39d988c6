"""Views whose hues are off come back to the photo's."""

from __future__ import annotations

import numpy as np

from synchuman.stage1.color_match import match_colors
from synchuman.views import BACK, FACE, FRONT, LEFT, NUM_VIEWS, RIGHT

SIDE = 96
TOP, LEGS, SHOE = np.array([[0.85, 0.05, 0.1], [0.2, 0.3, 0.55], [0.3, 0.25, 0.2]])
SHIFTED = np.array([[0.75, 0.4, 0.1], [0.25, 0.3, 0.45], [0.3, 0.25, 0.2]])


def dressed(colours: np.ndarray, left: int = 30, right: int = 66) -> np.ndarray:
    image = np.ones((SIDE, SIDE, 3), np.float32)
    for colour, rows in zip(colours, (slice(5, 45), slice(45, 85), slice(85, 92)), strict=True):
        image[rows, left:right] = colour
    return image


def test_shifted_hues_come_back_and_the_rest_stays():
    photo = dressed(np.stack([TOP, LEGS, SHOE]))
    generated = np.stack([dressed(SHIFTED)] * NUM_VIEWS)
    generated[RIGHT] = dressed(SHIFTED, 38, 58)
    green = np.array([0.1, 0.6, 0.2])  # a bag on the back that the front does not show
    generated[BACK, 20:35, 40:56] = green
    matched = match_colors(generated, photo)
    assert np.array_equal(matched[FRONT], generated[FRONT])
    for view, columns in ((RIGHT, slice(42, 54)), (LEFT, slice(36, 60))):
        assert np.abs(matched[view, 12:38, columns] - TOP).max() < 0.06
        assert np.abs(matched[view, 52:78, columns] - LEGS).max() < 0.06
    assert np.abs(matched[BACK, 24:31, 44:52] - green).max() < 0.06
    white = (generated == 1).all(-1)
    assert np.array_equal(matched[white], generated[white])
    assert matched.min() >= 0 and matched.max() <= 1
    # The face view is told by the upper third of the front, where the top is.
    assert np.abs(matched[FACE, 12:38, 36:60] - TOP).max() < 0.06


def test_right_hues_and_empty_views_stay():
    photo = dressed(np.stack([TOP, LEGS, SHOE]))
    generated = np.stack([photo] * NUM_VIEWS)
    generated[LEFT] = 1
    assert np.abs(match_colors(generated, photo) - generated).max() < 1e-6
    blank = np.ones_like(photo)
    assert np.array_equal(match_colors(generated, blank), generated)
