"""Shells with holes: what is behind them is filled, however wide the hole is up to some cells."""

import numpy as np
import pytest

from synchuman.surface.grid_fill import _close

SIDE, RADIUS, WALL = 48, 16, 3


def shell(hole: float) -> tuple[np.ndarray, np.ndarray]:
    """A hollow ball with a round hole of that radius in cells at its top, and the whole ball."""
    x, y, z = np.meshgrid(*[np.arange(SIDE) - SIDE / 2 + 0.5] * 3, indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    ball = distance < RADIUS
    wall = ball & (distance > RADIUS - WALL)
    wall[(x**2 + y**2 < hole**2) & (z > 0)] = False
    return wall, ball


@pytest.mark.parametrize("hole", [0.0, 0.8, 2.0, 3.5])
def test_what_is_behind_a_hole_is_filled(hole):
    wall, ball = shell(hole)
    closed = _close(wall, (1, 2, 4))
    assert (closed & ball).sum() > 0.95 * ball.sum()
    assert not closed[~ball].any()


def test_a_bowl_is_no_leak():
    """What even the largest ball rolls into belongs to the outside."""
    wall, ball = shell(11.0)
    closed = _close(wall, (1, 2, 4))
    assert (closed & ball).sum() < 0.6 * ball.sum()
