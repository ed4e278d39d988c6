"""Exact surface targets of a person: signed distance, normals, offsets and colours on a sparse grid.

People are made of open shells: garments over a body whose hidden skin is left out. What is outside is what a
flood from the border of the grid reaches, with the whole skin as a barrier, so that it does not enter the
body through a trouser leg. Only surface next to flooded cells counts; layers below are ignored. A sheet that
is flooded on both sides (skirt, wide sleeve, hair) has no inside and gets a thickness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from synchuman.nn.sparse_tensor import CHILDREN, child_offsets
from synchuman.training.people.surface_samples import (
    Samples,
    flooded_sides,
    nearest_samples,
    sample_surface,
    touched_cells,
)
from synchuman.training.people.views import Scene, shaded

CELLS = 128
SDF_LIMIT, SDF_SCALE = 2.0, 63.5
UNIT_SCALE = 127.0
SHEET_RADIUS = 0.55  # cells; half the thickness a sheet gets
REACH = SDF_LIMIT + SHEET_RADIUS
COLOR_LIFT, COLOR_REACH = 0.5, 1.6  # cells
TANGENTIAL = 0.45  # cells to the side that the plane of a sample stands for the surface
CLOSE = 0.5
VALID_OFFSET = 0.9
FLATTEST = 0.3  # shorter gradients: middle of a sheet, where no side is nearer

TARGETS = ("voxels", "occupied", "sdf", "cell_normal", "cell_offset", "cell_color", "cell_valid")
CORNERS = np.stack(np.meshgrid(*(np.arange(3),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
Paint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Shape:
    """A surface in cells of the grid (cube [0, 128]^3).

    Attributes:
        points: [V, 3] float32.
        triangles: [F, 3] int32; counter-clockwise seen from outside where there is an outside.
        barrier: [B, 3] int32 triangles that only keep the flood out.
    """

    points: np.ndarray
    triangles: np.ndarray
    barrier: np.ndarray


def surface_targets(scene: Scene, gain: Tensor) -> dict[str, np.ndarray]:
    """Make the surface targets of a placed person.

    Args:
        scene: The placed person.
        gain: [3] exposure and white balance, as for `render_views`.

    Returns:
        See `shape_targets`; colours are those of the stored views.
    """
    triangles = scene.triangles.cpu().numpy()

    def paint(faces: np.ndarray, weights: np.ndarray, outward: np.ndarray) -> np.ndarray:
        device = scene.vertices.device
        corners = scene.triangles[torch.from_numpy(faces).to(device)].long()
        share = torch.from_numpy(weights).to(device)[..., None]
        attributes = torch.cat([scene.person.reference, scene.normals, scene.occlusion[:, None]], dim=1)
        values = (attributes[corners] * share).sum(1)
        toward = torch.from_numpy(outward).to(device)
        lit, _ = shaded(scene.person, values, scene.person.identity[corners[:, 0]], toward, gain)
        return (lit * 255 + 0.5).to(torch.uint8).cpu().numpy()

    shape = Shape(
        ((scene.vertices + 0.5) * CELLS).float().cpu().numpy(), triangles, scene.person.skin.cpu().numpy()
    )
    return shape_targets(shape, scene.occupancy.cpu().numpy(), paint)


def shape_targets(shape: Shape, occupancy: np.ndarray, paint: Paint) -> dict[str, np.ndarray]:
    """Make the surface targets of a shape.

    Args:
        shape: The surface.
        occupancy: [64, 64, 64] bool, voxels the surface touches.
        paint: Maps triangle indices [N], barycentric weights [N, 3] and outward unit vectors [N, 3] to
            colours, uint8 [N, 3].

    Returns:
        `voxels`: uint8 [m, 3], (x, y, z) of the 64^3 grid: the occupancy dilated by one, sorted.
        `occupied`: bool [m], those in the occupancy itself.
        `sdf`: int8 [m, 27], round(63.5 d), d the signed distance in cells (1/128), negative inside, clamped
            to [-2, 2], at vertex (2 v + (i, j, k)) / 128 - 0.5 in column (3 i + j) 3 + k.
        For the eight children of a voxel, in the order of `child_offsets`, from the trilinear `sdf`:
        `cell_normal`: int8 [m, 8, 3], outward unit normal times 127.
        `cell_offset`: int8 [m, 8], 127 times the distance in cells, within [-1, 1], from the cell's centre
            along that normal to the surface.
        `cell_color`: uint8 [m, 8, 3], colour of the nearest outer surface.
        `cell_valid`: bool [m, 8], whether the surface passes within 0.9 cells of the centre; the other
            arrays say nothing where it does not.
    """
    grown = ndimage.binary_dilation(occupancy)
    voxels = np.argwhere(grown)
    skin = touched_cells(shape.points, shape.barrier, CELLS)
    flooded, dry = flood(touched_cells(shape.points, shape.triangles, CELLS) | skin)
    samples = sample_surface(shape.points, shape.triangles)
    samples = samples.seen(flooded_sides(samples, flooded), flooded, dry | skin)
    grid = signed_distance(samples, flooded, dry, vertex_mask(voxels))
    at = 2 * voxels[:, None] + CORNERS
    stored = np.rint(grid[at[..., 0], at[..., 1], at[..., 2]] * SDF_SCALE).astype(np.int8)
    normal, offset, valid = cell_planes(stored / np.float32(SDF_SCALE))

    # Looked up from a little outside, so that a layer just below the surface is never nearer.
    centres = (2 * voxels[:, None] + child_offsets().numpy())[valid] + np.float32(0.5)
    seen_from = centres + (offset[valid] + COLOR_LIFT)[:, None] * normal[valid]
    tree = cKDTree(samples.points, balanced_tree=False, compact_nodes=False)
    _, rows = tree.query(seen_from, distance_upper_bound=COLOR_REACH)
    valid[valid] = rows < len(samples)
    rows = rows[rows < len(samples)]
    color = np.zeros((len(voxels), CHILDREN, 3), np.uint8)
    if len(rows):
        color[valid] = paint(samples.faces[rows], samples.weights[rows], normal[valid])
    return {
        "voxels": voxels.astype(np.uint8),
        "occupied": occupancy[tuple(voxels.T)],
        "sdf": stored,
        "cell_normal": np.rint(normal * UNIT_SCALE).astype(np.int8),
        "cell_offset": np.rint(offset * UNIT_SCALE).astype(np.int8),
        "cell_color": color,
        "cell_valid": valid,
    }


def flood(touched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find cells reached from outside the grid across faces of untouched cells.

    Returns:
        Two bool like `touched`: reached by a flood too wide for gaps of a single cell, as between two layers
        of clothes; and reached by no flood, nor touched.
    """
    labels, _ = ndimage.label(np.pad(~touched, 1, constant_values=True))
    reached = labels == labels[0, 0, 0]
    wide = _any_cell(_all_cells(reached))
    return wide[1:-1, 1:-1, 1:-1], ~(reached[1:-1, 1:-1, 1:-1] | touched)


def vertex_mask(voxels: np.ndarray) -> np.ndarray:
    """Vertices of the fine grid that belong to any of the voxels, bool [129, 129, 129]."""
    mask = np.zeros((CELLS + 1,) * 3, bool)
    at = (2 * voxels[:, None] + CORNERS).reshape(-1, 3)
    mask[tuple(at.T)] = True
    return mask


def signed_distance(samples: Samples, flooded: np.ndarray, dry: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Signed distance in cells, [129, 129, 129] float32 within [-2, 2], right where `wanted`.

    The union of what encloses a volume and of the thickened sheets.
    """
    _, solid = nearest_samples(samples, np.flatnonzero(~samples.sheet), wanted, 0.0, REACH)
    _, sheet = nearest_samples(samples, np.flatnonzero(samples.sheet), wanted, 0.0, REACH)
    outside = _any_cell(flooded)
    inside = _all_cells(np.pad(dry, 1))
    distance = np.where(outside, np.float32(SDF_LIMIT), np.float32(-SDF_LIMIT))
    at = np.flatnonzero(wanted & (solid >= 0))
    plane, point = _distances(samples, solid.ravel()[at], at)
    # Right at the surface its plane decides: a cell that it only grazes may count as untouched.
    decided = (outside | inside).ravel()[at] & (point > CLOSE)
    sign = np.where(np.where(decided, inside.ravel()[at], plane < 0), -1, 1)
    # Flooded and yet right behind a surface seen from one side: a sheet's end, as thick as the rest of it.
    behind = outside.ravel()[at] & (plane < 0) & (point <= -plane + 1e-4)
    distance.ravel()[at] = np.where(behind, np.abs(point - SHEET_RADIUS) - SHEET_RADIUS, sign * point)
    at = np.flatnonzero(wanted & (sheet >= 0))
    _, point = _distances(samples, sheet.ravel()[at], at)
    # Touched vertices with nothing but a sheet around them are its middle, not the inside of something.
    lone = ~(outside | inside).ravel()[at] & (solid.ravel()[at] < 0)
    base = np.where(lone, SDF_LIMIT, distance.ravel()[at])
    distance.ravel()[at] = np.minimum(base, point - SHEET_RADIUS)
    return distance.clip(-SDF_LIMIT, SDF_LIMIT)


def _distances(samples: Samples, rows: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to the planes of samples, and unsigned distance to the surface, of flat vertices."""
    vertices = np.stack(np.unravel_index(at, (CELLS + 1,) * 3), axis=1).astype(np.float32)
    away = vertices - samples.points[rows]
    plane = np.einsum("ij,ij->i", away, samples.normals[rows])
    squared = np.einsum("ij,ij->i", away, away)
    beside = np.sqrt((squared - plane * plane).clip(0)) - TANGENTIAL
    return plane, np.hypot(plane, beside.clip(0))


def _all_cells(cells: np.ndarray) -> np.ndarray:
    """Inner vertices that have all of their eight cells set, bool [n - 1] * 3."""
    for axis in range(3):
        cells = np.moveaxis(cells, axis, 0)
        cells = np.moveaxis(cells[1:] & cells[:-1], 0, axis)
    return cells


def _any_cell(cells: np.ndarray) -> np.ndarray:
    """Vertices with any of their eight cells set, bool [n + 1] * 3."""
    result = cells
    for axis in range(3):
        before = [(0, 0)] * 3
        before[axis] = (1, 0)
        after = [(0, 0)] * 3
        after[axis] = (0, 1)
        result = np.pad(result, before) | np.pad(result, after)
    return result


def cell_planes(sdf: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes of the eight children from the signed distance [m, 27]: normals, offsets and which are valid.

    Value and gradient of the trilinear interpolation at the centre of each child.
    """
    offsets = child_offsets().numpy()
    columns = (offsets[:, None] + offsets) @ np.array([9, 3, 1])
    corners = sdf[:, columns]
    gradient = corners @ (offsets * 2 - 1).astype(np.float32) / 4
    length = np.linalg.norm(gradient, axis=-1)
    slope = np.maximum(length, 1e-6)
    offset = -corners.mean(-1) / slope
    valid = (length >= FLATTEST) & (np.abs(offset) <= VALID_OFFSET)
    return gradient / slope[..., None], offset.clip(-1, 1), valid
