"""Charts laid out on a square by their true shapes, the largest first."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft

from synchuman.surface.mesh import Checkpoint

CELLS = 256  # cells of the layout per side; charts stand on whole cells
FINE = 4  # drawn pixels per cell and axis
HALF = FINE // 2  # pixels of half a cell
FIRST_FILL = 0.72  # share of the square that the first try hopes to fill
BORDER = 2  # cells that the gutter and rounding add to a chart along each axis
SHRINK = 0.97  # scale of the next try
SMALL = 64  # cells of a chart's rectangle up to which all of it is kept free


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
    longest = max(float(chart.triangles.max()) for chart in charts)
    # A standing person is as high as the square before its charts fill it.
    by_area, by_length = np.sqrt(FIRST_FILL / max(area, 1e-12)), (1 - BORDER / CELLS) / max(longest, 1e-6)
    first = size * min(by_area, by_length)
    drawn = [_draw(chart.triangles, first * CELLS / size) for chart in charts]
    scale = first
    while True:
        checkpoint("atlas", 3, 4)
        cells = _place(drawn, scale / first)
        if cells is not None:
            # A chart is drawn half a cell away from its mask's corner, which is its gutter.
            return (cells + 0.5) * (size / CELLS), scale
        scale *= SHRINK


def _area(triangles: np.ndarray) -> np.ndarray:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def _draw(triangles: np.ndarray, scale: float) -> np.ndarray:
    """Draw a chart; return [h, w] uint8, 255 inside, with `FINE` pixels to a cell along each axis.

    Args:
        triangles: [f, 3, 2] with their smallest corner at (0, 0).
        scale: Cells per unit.
    """
    corners = triangles * (scale * FINE)
    wide, high = np.ceil(corners.reshape(-1, 2).max(0)).astype(int) + 1
    drawing = np.zeros((high, wide), np.uint8)
    for triangle in np.floor(corners).astype(np.int32):
        cv2.fillConvexPoly(drawing, triangle, 255)
    return drawing


def _shrunk(drawing: np.ndarray, shrink: float) -> tuple[int, int]:
    """Height and width of a drawing in pixels at a scale beside its own."""
    high, wide = drawing.shape
    return math.ceil(high * shrink), math.ceil(wide * shrink)


def _shape(drawing: np.ndarray, shrink: float) -> tuple[int, int]:
    """Height and width of `_mask` in cells: half a cell, the drawing, and a pixel of gutter."""
    high, wide = _shrunk(drawing, shrink)
    return math.ceil((HALF + high + 1) / FINE), math.ceil((HALF + wide + 1) / FINE)


def _mask(drawing: np.ndarray, shrink: float) -> np.ndarray:
    """Make the mask [h, w] bool of the cells of a chart and of a gutter around it.

    Args:
        drawing: See `_draw`.
        shrink: At most 1; scale of the mask beside that of the drawing.
    """
    high, wide = _shape(drawing, shrink)
    rows, columns = _shrunk(drawing, shrink)
    # The mean of a pixel is above 0 from 1/500 of it on, far less than the gutter makes up for.
    inside = cv2.resize(drawing, (columns, rows), interpolation=cv2.INTER_AREA) > 0
    fine = np.zeros((high * FINE, wide * FINE), np.uint8)
    fine[HALF : HALF + rows, HALF : HALF + columns] = np.where(inside, 255, 0)
    grown = cv2.dilate(fine, np.ones((3, 3), np.uint8))
    return cv2.resize(grown, (wide, high), interpolation=cv2.INTER_AREA) > 0


def _place(drawn: list[np.ndarray], shrink: float) -> np.ndarray | None:
    """Find free places [n, 2] (column, row) for the masks of all charts; None when one does not fit."""
    shapes = [_shape(drawing, shrink) for drawing in drawn]
    if max(map(max, shapes)) > CELLS:
        return None
    taken = np.zeros((CELLS, CELLS), np.float32)
    places = np.zeros((len(drawn), 2))
    largest_first = sorted(range(len(drawn)), key=lambda i: (-math.prod(shapes[i]), shapes[i]))
    for (high, wide), charts in itertools.groupby(largest_first, key=lambda i: shapes[i]):
        free = None
        for i in charts:
            mask = _mask(drawn[i], shrink)
            if free is None or mask.size > SMALL:
                free = _free(taken, mask)
            row, column = divmod(int(free.argmax()), free.shape[1])
            if not free[row, column]:
                return None
            taken[row : row + high, column : column + wide] += mask
            places[i] = column, row
            # Small charts of one shape keep out of each other's rectangles: one search serves them all.
            free[max(row - high + 1, 0) : row + high, max(column - wide + 1, 0) : column + wide] = False
    return places


def _free(taken: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tell where [rows, columns] the corner of a mask may lie so that it meets nothing that is taken."""
    high, wide = mask.shape
    if mask.size <= SMALL:
        sums = np.pad(taken.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        return sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide] < 0.5
    product = fft.rfft2(taken) * np.conj(fft.rfft2(mask.astype(np.float32), taken.shape))
    return fft.irfft2(product, taken.shape)[: CELLS - high + 1, : CELLS - wide + 1] < 0.5
