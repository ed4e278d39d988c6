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
    first = size * np.sqrt(FIRST_FILL / max(area, 1e-12))
    drawn = [_draw(chart.triangles, first * CELLS / size) for chart in charts]
    scale = first
    while True:
        checkpoint("atlas", 3, 4)
        cells = _place([_mask(pixels, scale / first) for pixels in drawn])
        if cells is not None:
            # A chart is drawn half a cell away from its mask's corner, which is its gutter.
            return (cells + 0.5) * (size / CELLS), scale
        scale *= SHRINK


def _area(triangles: np.ndarray) -> np.ndarray:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def _draw(triangles: np.ndarray, scale: float) -> np.ndarray:
    """Draw a chart; return its pixels [n, 2] (row, column), of which `FINE` are a cell along each axis.

    Args:
        triangles: [f, 3, 2] with their smallest corner at (0, 0).
        scale: Cells per unit.
    """
    corners = triangles * (scale * FINE)
    wide, high = np.ceil(corners.reshape(-1, 2).max(0)).astype(int) + 1
    fine = np.zeros((high, wide), np.uint8)
    for triangle in np.floor(corners).astype(np.int32):
        cv2.fillConvexPoly(fine, triangle, 1)
    return np.argwhere(fine).astype(np.float32)


def _mask(pixels: np.ndarray, shrink: float) -> np.ndarray:
    """Make the mask [h, w] bool of the cells of a chart and of a gutter around it.

    Args:
        pixels: See `_draw`.
        shrink: At most 1; scale of the mask beside that of the pixels.
    """
    # Shrunk pixels leave no gaps, and are at most one from where they would have been drawn: the gutter's.
    places = np.floor((pixels + 0.5) * shrink + 0.5 * FINE).astype(np.int64)
    high, wide = (places.max(0) + FINE) // FINE + 1
    fine = np.zeros((high * FINE, wide * FINE), np.uint8)
    fine[places[:, 0], places[:, 1]] = 255  # the mean over a cell shows even one of them
    grown = cv2.dilate(fine, np.ones((3, 3), np.uint8))
    return cv2.resize(grown, (wide, high), interpolation=cv2.INTER_AREA) > 0


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
