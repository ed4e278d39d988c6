"""A texture atlas of few large charts: connected faces that one direction sees best, projected along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from synchuman.surface.mesh import Checkpoint, face_neighbours, face_normals
from synchuman.surface.packing import Chart, pack
from synchuman.surface.scan import Hits, scan_convert

# Front, right, back, left, top, bottom: unit vectors from the body to the camera.
DIRECTIONS = np.array([[0, -1, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]], np.float64)
# Texels per unit beside those of the front, which the photo shows at its own resolution.
DENSITY = np.array([1.0, 0.75, 0.75, 0.75, 0.5, 0.5])

_LOOK = 768  # pixels of the depth maps that decide what hides what
_BIAS = 0.006  # depth, in units of the cube, within which a face counts as the nearest
_SMOOTH_STEPS, _SMOOTH_WEIGHT = 16, 0.35
_MERGE_STEPS, _SMALL_CHART = 6, 40
_LAYERS = 3


@dataclass(frozen=True)
class Atlas:
    """A mesh cut into charts.

    Attributes:
        source: [v'] index of the uncut vertex behind each vertex.
        faces: [f, 3] int32 into the cut vertices, in the order of the uncut faces.
        uv: [v', 2] float32, (0, 0) top left.
        density: Texels per unit of the cube in the front charts.
        charts: Number of charts.
    """

    source: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    density: float
    charts: int


def unwrap(
    vertices: np.ndarray, faces: np.ndarray, size: int, checkpoint: Checkpoint, device: torch.device
) -> Atlas:
    """Cut a mesh into charts and lay them out on a square texture without overlap.

    Args:
        vertices: [v, 3] in the cube.
        faces: [f, 3].
        size: Side of the texture in texels.
        checkpoint: Called between the steps with the stage "atlas".
        device: Where triangles are drawn.
    """
    points = vertices.astype(np.float64)
    score = face_normals(points, faces)[0] @ DIRECTIONS.T
    checkpoint("atlas", 0, 4)
    label = _label(points, faces, score, device)
    checkpoint("atlas", 1, 4)
    layer = np.zeros(len(faces), np.int64)
    for direction in range(len(DIRECTIONS)):
        member = np.flatnonzero(label == direction)
        if len(member):
            layer[member] = _peel(points, faces[member], DIRECTIONS[direction], device)
    pairs = face_neighbours(faces)
    count, chart = _charts(label * (_LAYERS + 1) + layer, pairs)
    checkpoint("atlas", 2, 4)

    flat = np.empty((len(faces), 3, 2))
    for direction in range(len(DIRECTIONS)):
        member = label == direction
        flat[member] = (points @ _axes(DIRECTIONS[direction]) * DENSITY[direction])[faces[member]]
    low = np.full((count, 2), np.inf)
    np.minimum.at(low, chart, flat.min(1))
    flat -= low[chart][:, None]
    order = np.argsort(chart, kind="stable")
    groups = np.split(flat[order], np.cumsum(np.bincount(chart, minlength=count))[:-1])
    positions, scale = pack([Chart(group) for group in groups], size, checkpoint)
    corners = (flat * scale + positions[chart][:, None]) / size

    key = chart[:, None].astype(np.int64) * len(vertices) + faces
    _, first, index = np.unique(key.ravel(), return_index=True, return_inverse=True)
    uv = corners.reshape(-1, 2)[first].astype(np.float32)
    cut_faces = index.reshape(-1, 3).astype(np.int32)
    return Atlas(faces.ravel()[first].astype(np.int64), cut_faces, uv, scale, count)


def _axes(direction: np.ndarray) -> np.ndarray:
    """Matrix [3, 2] that projects points to (right, down) as the camera at `direction` sees them."""
    up = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.5 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, direction)
    return np.stack([right, -np.cross(direction, right)], axis=1)


def _look(points: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [v, 2] and depth [v] of the points on a square picture of the cube and some margin."""
    return (points @ _axes(direction) / 1.1 + 0.5) * _LOOK, points @ direction


def _draw(points: np.ndarray, faces: np.ndarray, direction: np.ndarray, device: torch.device) -> Hits:
    """Draw faces as the camera at `direction` sees them."""
    pixels, depth = (torch.from_numpy(array).to(device) for array in _look(points, direction))
    return scan_convert(pixels, torch.from_numpy(faces).to(device), _LOOK, _LOOK, depth)


def _label(points: np.ndarray, faces: np.ndarray, score: np.ndarray, device: torch.device) -> np.ndarray:
    """Choose a direction per face: seen as straight as possible, not hidden, like its neighbours."""
    centres = points[faces].mean(1)
    cost = -score.copy()
    cost[:, :4] *= 1.15  # body views have pictures, top and bottom have none
    for i, direction in enumerate(DIRECTIONS):
        hits = _draw(points, faces[score[:, i] > 0], direction, device)
        nearest = hits.depth_map(_LOOK, _LOOK, -np.inf).cpu().numpy()
        at, own = _look(centres, direction)
        column, row = np.clip(at.astype(np.int64), 0, _LOOK - 1).T
        cost[:, i] += np.where(own < nearest[row, column] - _BIAS, 0.6, 0)
    cost += np.where(score > 0.08, 0, 3.0)
    pairs = face_neighbours(faces)
    near = _adjacency(pairs, len(faces))
    one_hot = np.eye(len(DIRECTIONS))
    label = cost.argmin(1)
    for _ in range(_SMOOTH_STEPS):
        label = (cost - _SMOOTH_WEIGHT * (near @ one_hot[label])).argmin(1)
    for _ in range(_MERGE_STEPS):
        count, chart = _charts(label, pairs)
        small = np.bincount(chart, minlength=count)[chart] < _SMALL_CHART
        votes = near @ (one_hot[label] * ~small[:, None]) - 10 * (score < 0.02)
        moved = small & (votes.max(1) > 0)
        if not moved.any():
            break
        label[moved] = votes[moved].argmax(1)
    return label


def _peel(points: np.ndarray, faces: np.ndarray, direction: np.ndarray, device: torch.device) -> np.ndarray:
    """Sort faces of one direction into layers [f] in which none covers another."""
    layer = np.full(len(faces), _LAYERS)
    rest = np.arange(len(faces))
    for i in range(_LAYERS):
        hits = _draw(points, faces[rest], direction, device)
        won = torch.bincount(hits.face, minlength=len(rest))
        clear = (won == hits.covered).cpu().numpy()
        layer[rest[clear]] = i
        rest = rest[~clear]
        if not len(rest):
            break
    return layer


def _adjacency(pairs: np.ndarray, n: int) -> csr_matrix:
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    return coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n)).tocsr()


def _charts(label: np.ndarray, pairs: np.ndarray) -> tuple[int, np.ndarray]:
    """Number the connected sets of faces with one label."""
    same = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    count, chart = connected_components(_adjacency(same, len(label)), directed=False)
    return count, chart
