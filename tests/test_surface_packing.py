"""Charts on a square: apart, inside, and as large as the longest of them allows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import quiet

from synchuman.surface.packing import CELLS, Chart, pack

SIZE = 1024
DRAWN = 4  # drawn pixels per texel


def rectangle(width: float, height: float) -> Chart:
    """Two triangles."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    return Chart(corners[[[0, 1, 2], [0, 2, 3]]])


def scraps(count: int) -> list[Chart]:
    """Single small triangles of many sizes."""
    corners = np.random.default_rng(0).uniform(0, 0.05, (count, 1, 3, 2))
    return [Chart(triangle - triangle.min(axis=(0, 1))) for triangle in corners]


@pytest.fixture(scope="module")
def standing() -> list[Chart]:
    """Four tall charts and many scraps."""
    return [rectangle(0.15, 1.0), *(rectangle(0.15, 0.75) for _ in range(3)), *scraps(200)]


def test_charts_lie_apart_on_the_square(standing: list[Chart]) -> None:
    positions, scale = pack(standing, SIZE, quiet)
    times = np.zeros((SIZE * DRAWN, SIZE * DRAWN), np.uint8)
    for chart, position in zip(standing, positions):
        corners = chart.triangles * scale + position
        assert corners.min() >= 0 and corners.max() <= SIZE
        own = np.zeros_like(times)
        for triangle in np.round(corners * DRAWN).astype(np.int32):
            cv2.fillConvexPoly(own, triangle, 1)
        gutter = SIZE * DRAWN // CELLS // 4  # a quarter of a cell on every side of every chart
        times += cv2.dilate(own, np.ones((2 * gutter + 1, 2 * gutter + 1), np.uint8))
    assert times.max() == 1


def test_a_standing_person_is_as_high_as_the_square(standing: list[Chart]) -> None:
    _, scale = pack(standing, SIZE, quiet)
    assert 0.985 * SIZE < scale < SIZE


def test_charts_that_do_not_fit_are_made_smaller_until_they_do() -> None:
    _, scale = pack([rectangle(0.7, 0.7) for _ in range(2)], SIZE, quiet)
    most = SIZE * 0.5 / 0.7  # two squares side by side
    assert 0.94 * most < scale < most
