"""A structure from the views alone, for a run whose own was not kept: carved by masks, shaped by normals."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from synchuman.surface.sources import Source, signed_outline
from synchuman.views import BACK, FACE, FRONT, VIEWS

RESOLUTION = 64
FINER = 2  # cells per voxel and axis while carving
STEEPEST = 4.0  # slope; normals do not tell steeper ones well
LOOSE = 0.02  # weight of a slope that no normal tells
CLOSED = 0.5  # weight of front and back meeting at the outline
CENTRED = 0.02  # weight of a row's middle lying in the middle of the side view
EXTREME = 0.5  # weight of a row's nearest and farthest point lying on the side view's outline
ROUNDS = 4

Equations = list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def carve_structure(sources: list[Source], normals: np.ndarray, resolution: int = RESOLUTION) -> np.ndarray:
    """Find the voxels of the surface from masks and normals of the body views.

    Two outlines leave limbs square and hollows full. So the depths of the front and the back surface are
    found that have the slopes of their normals, meet along the front outline and reach as far to the front
    and back as the side views show: least squares, as in shape from normals (Horn and Brooks 1986).

    Args:
        sources: The views, and the photo if there is one.
        normals: [5, s, s, 3] uint8 stored normal views on white.
        resolution: Voxels along each side of the cube.

    Returns:
        [n, n, n] float32, 1 in the voxels that hold the surface and -1 elsewhere, indexed (x, y, z).

    Raises:
        ValueError: The masks leave nothing.
    """
    n = resolution * FINER
    centres = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32)
    front, side = (_outline(sources, axis, centres) for axis in (0, 1))
    front &= side.any(0)
    if not front.any():
        raise ValueError(
            "The masks of the views leave nothing: front and side views do not overlap; sample them again, "
            "with more steps or another seed."
        )
    views = {source.view: source for source in sources if not source.photo}
    slopes = [_slopes(views[view], normals[view], n) for view in (FRONT, BACK)]
    near, far = _depths(front, side, slopes, centres)
    y = centres[None, :, None]
    cells = front[:, None] & side[None] & (y > near[:, None] - 0.5 / n) & (y < far[:, None] + 0.5 / n)
    surface = ndimage.binary_dilation(cells) & ~ndimage.binary_erosion(cells)
    blocks = surface.reshape(*(size for _ in range(3) for size in (resolution, FINER)))
    return np.where(blocks.any((1, 3, 5)), 1.0, -1.0).astype(np.float32)


def _outline(sources: list[Source], axis: int, centres: np.ndarray) -> np.ndarray:
    """Mask [c, r] of the person seen along y (axis 0: columns are x) or along x (axis 1: columns are y)."""
    seen = [s for s in sources if s.view != FACE and VIEWS[s.view].column_axis == axis and s.mask.any()]
    if not seen:
        raise ValueError(
            "The masks of the views are empty: nobody is in the front or in the side views; "
            "sample them again, with more steps or another seed."
        )
    return np.mean([signed_outline(s, centres, centres) for s in seen], axis=0) < 0


def _slopes(source: Source, normals: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slopes dy/dx and dy/dz of the surface that a view along y sees, and their weights; [x, z] each."""
    mask = source.mask.astype(np.float32)
    vectors = (normals.astype(np.float32) / 127.5 - 1) * mask[..., None]
    small = cv2.resize(vectors, (n, n), interpolation=cv2.INTER_AREA)[::-1].swapaxes(0, 1)
    known = cv2.resize(mask, (n, n), interpolation=cv2.INTER_AREA)[::-1].T > 0.5
    x, z, y = small[..., 0], small[..., 1], -small[..., 2]
    length = np.maximum(np.sqrt(x**2 + y**2 + z**2), 1e-6)
    toward = float(source.direction[1])
    depth = np.maximum(y / length * toward, 1 / STEEPEST) * toward
    weight = np.where(known, np.clip(y / length * toward, 0, 1) ** 2, 0)
    along_x, along_z = (np.clip(-part / length / depth, -STEEPEST, STEEPEST) for part in (x, z))
    return along_x, along_z, weight


def _depths(
    front: np.ndarray,
    side: np.ndarray,
    slopes: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    centres: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Depths y [x, z] of the front and the back surface within the front mask."""
    number = np.full(front.shape, -1)
    number[front] = np.arange(front.sum())
    count = int(front.sum())
    step = centres[1] - centres[0]
    fixed: Equations = []
    for surface, (along_x, along_z, weight) in enumerate(slopes):
        for axis, slope in ((0, along_x), (1, along_z)):
            here, there = _pairs(front, axis)
            rise = 0.5 * step * (slope[here] + slope[there])
            trust = np.minimum(weight[here], weight[there]) + LOOSE
            fixed.append(_equation([there, here], [1, -1], rise, trust, number, surface * count))
    rim = np.nonzero(front & ~ndimage.binary_erosion(front))
    rows = np.nonzero(front.any(0))[0]
    low = np.where(side, centres[:, None], np.inf).min(0)
    high = np.where(side, centres[:, None], -np.inf).max(0)
    inside = np.nonzero(front)
    k = number[inside]
    both = np.stack([k, k + count])
    middle = (low[inside[1]] + high[inside[1]]) / 2
    fixed.append((both, np.full(both.shape, 0.5), middle, np.full(len(k), CENTRED)))
    k = number[rim]
    meet = (np.stack([k + count, k]), np.tile([[1.0], [-1.0]], len(k)), np.full(len(k), step))
    fixed.append((*meet, np.full(len(k), CLOSED)))
    bounds: Equations = []
    for _ in range(ROUNDS):
        near, far = (_fill(part, front) for part in _solve([*fixed, *bounds], 2 * count).reshape(2, count))
        nearest = np.where(front, near, np.inf)[:, rows].argmin(0)
        farthest = np.where(front, far, -np.inf)[:, rows].argmax(0)
        one, tight = np.ones((1, len(rows))), np.full(len(rows), EXTREME)
        bounds = [
            (number[nearest, rows][None], one, low[rows], tight),
            (number[farthest, rows][None] + count, one, high[rows], tight),
        ]
    return near, far


def _pairs(mask: np.ndarray, axis: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Indices of the cells of a mask that have a next one along an axis, and of those."""
    both = mask & np.roll(mask, -1, axis)
    both[(slice(None),) * axis + (-1,)] = False
    here = np.nonzero(both)
    return here, tuple(index + (i == axis) for i, index in enumerate(here))


def _equation(
    cells: list[tuple[np.ndarray, ...]],
    factors: list[float],
    wanted: np.ndarray,
    weight: np.ndarray,
    number: np.ndarray,
    offset: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    unknowns = np.stack([number[cell] + offset for cell in cells])
    return unknowns, np.tile(np.array(factors)[:, None], unknowns.shape[1]), wanted, weight


def _solve(equations: Equations, unknowns: int) -> np.ndarray:
    """Least squares of equations (unknowns [t, m], factors [t, m], wanted [m], weight [m])."""
    rows, columns, values, wanted = [], [], [], []
    begin = 0
    for index, factor, right, weight in equations:
        root = np.sqrt(weight)
        rows.append(np.tile(begin + np.arange(index.shape[1]), index.shape[0]))
        columns.append(index.ravel())
        values.append((factor * root).ravel())
        wanted.append(right * root)
        begin += index.shape[1]
    matrix = sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(begin, unknowns)
    )
    return spsolve((matrix.T @ matrix).tocsc(), matrix.T @ np.concatenate(wanted))


def _fill(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    filled = np.zeros(mask.shape)
    filled[mask] = values
    return filled
