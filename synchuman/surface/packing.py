"""Charts laid out on a square by their true shapes, the largest first."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft

from synchuman.surface.mesh import Checkpoint

CELLS = 256  # cells of the layout per side; charts stand on whole cells
FINE = 4  # drawn pixels per cell and axis
FIRST_FILL = 0.72  # share of the square that the first try hopes to fill
SHRINK = 0.95  # scale of the next try


@dataclass(frozen=True)
class Chart:
    """Triangles [f, 3, 2] of one chart with their smallest corner at (0, 0), in any unit."""

    triangles: np.ndarray


def pack(charts: list[Chart], size: int, checkpoint: Checkpoint) -> tuple[np.ndarray, float]:
    """Place all charts on a square at the largest common scale that is found.

    Args:
        charts: The charts.
        size: Side of the square in texels.
        checkpoint: Called before each try with the stage "atlas".

    Returns:
        Positions [n, 2] of the charts' origins in texels, and the scale in texels per unit.
    """
    area = sum(float(_area(chart.triangles).sum()) for chart in charts)
    scale = size * np.sqrt(FIRST_FILL / max(area, 1e-12))
    while True:
        checkpoint("atlas", 3, 4)
        masks = [_draw(chart.triangles, scale * CELLS / size) for chart in charts]
        cells = _place(masks)
        if cells is not None:
            # A chart is drawn half a cell away from its mask's corner, which is its gutter.
            return (cells + 0.5) * (size / CELLS), scale
        scale *= SHRINK


def _area(triangles: np.ndarray) -> np.ndarray:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def _draw(triangles: np.ndarray, scale: float) -> np.ndarray:
    """Draw a chart and a gutter around it as a mask [h, w] bool of cells; `scale` is in cells per unit."""
    corners = (triangles * scale + 0.5) * FINE
    high, wide = (int(np.ceil((corners[..., axis].max() + 1) / FINE)) + 1 for axis in (1, 0))
    fine = np.zeros((high * FINE, wide * FINE), np.uint8)
    for triangle in np.floor(corners).astype(np.int32):
        cv2.fillConvexPoly(fine, triangle, 1)
    grown = cv2.dilate(fine, np.ones((3, 3), np.uint8))
    return grown.reshape(high, FINE, wide, FINE).max((1, 3)) > 0


def _place(masks: list[np.ndarray]) -> np.ndarray | None:
    """Find free places [n, 2] (column, row) for all masks in the square; None when one does not fit."""
    taken = np.zeros((CELLS, CELLS), np.float32)
    places = np.zeros((len(masks), 2))
    for i in sorted(range(len(masks)), key=lambda k: -masks[k].size):
        mask = masks[i]
        high, wide = mask.shape
        if high > CELLS or wide > CELLS:
            return None
        if mask.size <= 64:
            sums = np.pad(taken.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
            overlap = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
        else:
            shape = (CELLS, CELLS)
            product = fft.rfft2(taken) * np.conj(fft.rfft2(mask.astype(np.float32), shape))
            overlap = fft.irfft2(product, shape)[: CELLS - high + 1, : CELLS - wide + 1]
        free = np.flatnonzero(overlap.ravel() < 0.5)
        if not len(free):
            return None
        row, column = divmod(int(free[0]), overlap.shape[1])
        taken[row : row + high, column : column + wide] += mask
        places[i] = column, row
    return places
