"""Dense samples of a triangle mesh and what grids know about them; distances in cells of the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

SPACING = 0.3
TOUCH_STEP = 0.4
PLUS, MINUS = 1, 2
FOLD_STEP, FOLD_STEPS = 0.5, 6
# A layer hidden below another by less than this counts as seen.
SLACK = 0.25


@dataclass
class Samples:
    """Points on a surface.

    Attributes:
        points: [N, 3] float32, in cells.
        normals: [N, 3] float32, unit normals of the triangles.
        faces: [N] int64, their triangles.
        weights: [N, 3] float32, barycentric.
        sheet: [N] bool, seen from both sides.
    """

    points: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    sheet: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def seen(self, sides: np.ndarray, flooded: np.ndarray, solid: np.ndarray) -> Samples:
        """Keep the samples that are seen, their normals turned to the side they are seen from.

        Sheets are those seen from both sides or from behind, and those that hide a narrow fold.

        Args:
            sides: [N] uint8 of `flooded_sides`.
            flooded: bool [n, n, n], what is outside.
            solid: bool [n, n, n], cells inside something or on the skin.
        """
        rows = np.flatnonzero(sides)
        points = self.points[rows]
        normals = np.where((sides[rows] == MINUS)[:, None], -self.normals[rows], self.normals[rows])
        on_solid = solid[tuple(points.astype(int).clip(0, len(solid) - 1).T)]
        sheet = (sides[rows] == PLUS | MINUS) | ((sides[rows] == MINUS) & ~on_solid)
        _look_behind(points, normals, flooded, solid, sheet)
        return Samples(points, normals, self.faces[rows], self.weights[rows], sheet)


def sample_surface(points: np.ndarray, triangles: np.ndarray, spacing: float = SPACING) -> Samples:
    """Sample a mesh evenly by area: one sample per `spacing`^2, at the same places each time.

    Triangles are walked in order and a sample is set each time so much area has passed; where in its triangle
    follows the plastic-number sequence (M. Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018).
    """
    corners = points[triangles].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    passed = np.cumsum(length / 2) / spacing**2
    count = int(passed[-1]) if len(passed) else 0
    faces = np.searchsorted(passed, np.arange(count) + 0.5)
    order = np.arange(1, count + 1)
    u, v = (order * 0.7548776662466927) % 1, (order * 0.5698402909980532) % 1
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    weights = np.stack([1 - u - v, u, v], axis=1)
    at = np.einsum("nc,ncd->nd", weights, corners[faces]).astype(np.float32)
    normals = (cross[faces] / length[faces, None]).astype(np.float32)
    return Samples(at, normals, faces, weights.astype(np.float32), np.zeros(count, bool))


def touched_cells(points: np.ndarray, triangles: np.ndarray, resolution: int) -> np.ndarray:
    """Cells that a surface touches, bool [n, n, n], dense enough that no flood across faces passes it."""
    grid = np.zeros((resolution,) * 3, bool)
    _touch(points.astype(np.float32), triangles.astype(np.int32), grid)
    return grid


@numba.njit(cache=True, nogil=True)
def _touch(points, triangles, grid):  # pragma: no cover
    last = grid.shape[0] - 1
    for f in range(triangles.shape[0]):
        a, b, c = points[triangles[f, 0]], points[triangles[f, 1]], points[triangles[f, 2]]
        longest = 0.0
        for axis in range(3):
            ab, bc, ca = b[axis] - a[axis], c[axis] - b[axis], a[axis] - c[axis]
            longest = max(longest, max(abs(ab), max(abs(bc), abs(ca))))
        steps = max(int(np.ceil(longest / TOUCH_STEP)), 1)
        for i in range(steps + 1):
            for j in range(steps + 1 - i):
                u, v = i / steps, j / steps
                w = 1.0 - u - v
                x = int(w * a[0] + u * b[0] + v * c[0])
                y = int(w * a[1] + u * b[1] + v * c[1])
                z = int(w * a[2] + u * b[2] + v * c[2])
                x, y, z = min(max(x, 0), last), min(max(y, 0), last), min(max(z, 0), last)
                grid[x, y, z] = True


def nearest_samples(
    samples: Samples, rows: np.ndarray, wanted: np.ndarray, shift: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest sample of grid points.

    Args:
        samples: The samples.
        rows: Which samples count.
        wanted: bool [n, n, n], the grid points asked for; point (i, j, k) is at (i, j, k) + shift.
        shift: 0 for vertices, 0.5 for centres of cells.
        reach: Largest distance.

    Returns:
        As `wanted`: squared distance to the nearest sample, inf where there is none in reach and -1 where not
        wanted; and its row, else -1.
    """
    # No distance is below -1: one look tells that a point is not wanted or has a nearer sample.
    squared = np.where(wanted, np.float32(np.inf), np.float32(-1))
    nearest = np.full(wanted.shape, -1, np.int32)
    _splat(samples.points, rows, np.float32(shift), np.float32(reach), squared, nearest)
    return squared, nearest


@numba.njit(cache=True, nogil=True)
def _splat(points, rows, shift, reach, squared, nearest):  # pragma: no cover
    limit = reach * reach
    nx, ny, nz = squared.shape
    for row in rows:
        px, py, pz = points[row, 0] - shift, points[row, 1] - shift, points[row, 2] - shift
        for x in range(max(int(np.ceil(px - reach)), 0), min(int(np.floor(px + reach)), nx - 1) + 1):
            dx = (x - px) * (x - px)
            for y in range(max(int(np.ceil(py - reach)), 0), min(int(np.floor(py + reach)), ny - 1) + 1):
                dy = dx + (y - py) * (y - py)
                if dy > limit:
                    continue
                half = np.sqrt(limit - dy)
                for z in range(max(int(np.ceil(pz - half)), 0), min(int(np.floor(pz + half)), nz - 1) + 1):
                    d = dy + (z - pz) * (z - pz)
                    if d < squared[x, y, z]:
                        squared[x, y, z] = d
                        nearest[x, y, z] = row


def flooded_sides(samples: Samples, flooded: np.ndarray) -> np.ndarray:
    """From which sides flooded cells see each sample: PLUS (along its normal), MINUS, both or 0; uint8 [N].

    A flooded cell sees a sample when it lies in a cone about the sample's normal and no other sample is
    clearly nearer to it.
    """
    reach = 2.0
    near = touched_border(flooded)
    squared, _ = nearest_samples(samples, np.arange(len(samples)), near, 0.5, reach)
    sides = np.zeros(len(samples), np.uint8)
    _see(samples.points, samples.normals, near, np.sqrt(squared.clip(0)), np.float32(reach), sides)
    return sides


def touched_border(flooded: np.ndarray) -> np.ndarray:
    """Flooded cells with one that is not flooded within two cells, bool like `flooded`."""
    closed = ~flooded
    for axis in range(3):
        grown = closed.copy()
        for step in (1, 2):
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            grown[tuple(ahead)] |= closed[tuple(behind)]
            grown[tuple(behind)] |= closed[tuple(ahead)]
        closed = grown
    return flooded & closed


@numba.njit(cache=True, nogil=True)
def _see(points, normals, flooded, distance, reach, sides):  # pragma: no cover
    n = flooded.shape[0]
    for row in range(len(points)):
        px, py, pz = points[row, 0] - 0.5, points[row, 1] - 0.5, points[row, 2] - 0.5
        seen = 0
        for x in range(max(int(np.ceil(px - reach)), 0), min(int(np.floor(px + reach)), n - 1) + 1):
            for y in range(max(int(np.ceil(py - reach)), 0), min(int(np.floor(py + reach)), n - 1) + 1):
                for z in range(max(int(np.ceil(pz - reach)), 0), min(int(np.floor(pz + reach)), n - 1) + 1):
                    if not flooded[x, y, z]:
                        continue
                    dx, dy, dz = x - px, y - py, z - pz
                    height = dx * normals[row, 0] + dy * normals[row, 1] + dz * normals[row, 2]
                    squared = dx * dx + dy * dy + dz * dz
                    if squared > reach * reach:
                        continue
                    beside = squared - height * height
                    up = abs(height)
                    if beside <= 0.81 and beside <= 1.44 * up * up and up <= distance[x, y, z] + SLACK:
                        seen |= PLUS if height > 0 else MINUS
        sides[row] = seen


@numba.njit(cache=True, nogil=True)
def _look_behind(points, normals, flooded, solid, sheet):  # pragma: no cover
    last = flooded.shape[0] - 1
    for row in range(len(points)):
        for step in range(FOLD_STEPS + 1):
            if sheet[row]:
                break
            back = step * FOLD_STEP
            x = min(max(int(points[row, 0] - back * normals[row, 0]), 0), last)
            y = min(max(int(points[row, 1] - back * normals[row, 1]), 0), last)
            z = min(max(int(points[row, 2] - back * normals[row, 2]), 0), last)
            if solid[x, y, z]:
                break
            sheet[row] = step > 0 and flooded[x, y, z]
