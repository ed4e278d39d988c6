"""Relief for a surface from the normal views that Stage 1 generated beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags, identity
from scipy.sparse.linalg import cg

from synchuman.surface.mesh import Checkpoint, DenseMesh, face_normals, linked, vertex_normals
from synchuman.surface.raster import rasterize
from synchuman.surface.settle import settle
from synchuman.surface.sources import BACKGROUND
from synchuman.views import FACE, NUM_VIEWS, VIEWS, project

# Pull of every vertex toward where it was, by round, beside that of its edges. The smaller it is, the
# longer are the waves that the normals may shape.
ROUNDS = (0.005, 0.005, 0.004)
SPLIT_BEFORE = 2  # the round before which every triangle is cut in four
OWN_WEIGHT = 0.3  # of an edge that no view sees
OWN_SMOOTHINGS = 16  # of the normals that unseen vertices keep
GRAZING = 0.15  # cosine below which a camera does not see a vertex
BORDER = 2.5  # pixels from the outline over which trust in a normal view grows
FACE_WEIGHT = 3.0  # of the face view, which has three times the pixels, beside the front view
AGREES, DIFFERS = (
    0.5,
    0.0,
)  # cosines between surface and view from which on a view counts fully, and not at all
LARGEST = 0.03  # units of the cube that one round may move a vertex
SMOOTHINGS = 4  # of what no view sees, in every round
GAP = 2  # vertices from what no view sees over which trust falls
UNFOLDINGS = 10  # tries at evening out moves that turn a triangle over
_LOOK = 768  # pixels of the depth maps that decide what a camera sees
_LOOK_EXTENT = 1.1
_BIAS = 0.012  # depth a vertex may lie behind the depth map


class Guides(NamedTuple):
    """What shapes the surface of a small decoder beside its features.

    Attributes:
        normals: [5, s, s, 3] uint8 stored normal views on white.
        coarse: Stage 1's surface.
    """

    normals: np.ndarray
    coarse: DenseMesh


def with_relief(
    extract: Callable[[Checkpoint], DenseMesh], given: Guides | None, checkpoint: Checkpoint
) -> DenseMesh:
    """Extract a surface, let it follow the normal views, and lay it where the coarse one is.

    Args:
        extract: Gives the surface; called with a checkpoint.
        given: None leaves the surface as it is extracted.
        checkpoint: Called as (stage, step, total) throughout.
    """
    if given is None:
        return extract(checkpoint)

    def first_half(stage: str, step: int, total: int) -> None:
        checkpoint(stage, step, 2 * total)

    def second_half(stage: str, step: int, total: int) -> None:
        checkpoint(stage, total + step, 2 * total)

    return settle(follow_normals(extract(first_half), given.normals, second_half), given.coarse)


def follow_normals(dense: DenseMesh, normals: np.ndarray, checkpoint: Checkpoint) -> DenseMesh:
    """Move a surface, by little and without opening it, so that its normals become those of the views.

    Vertices move along their normals: least squares of the edges' slopes along the wanted normals and of the
    moves themselves (Nehab et al., Efficiently Combining Positions and Normals for Precise 3D Geometry, 2005,
    section 4). Positions decide on the long waves, normals on the short ones.

    Args:
        dense: Closed, in the cube.
        normals: [5, s, s, 3] uint8 stored normal views on white.
        checkpoint: Called between the rounds with the stage "surface".

    Returns:
        The surface with four times the triangles.
    """
    vertices, faces, colors = dense.vertices.astype(np.float64), dense.faces, dense.colors
    for number, hold in enumerate(ROUNDS):
        checkpoint("surface", number, len(ROUNDS))
        if number == SPLIT_BEFORE:
            vertices, faces, colors = split(vertices, faces, colors)
        vertices = _follow(vertices, faces, normals, hold)
    checkpoint("surface", len(ROUNDS), len(ROUNDS))
    return DenseMesh(vertices.astype(np.float32), faces, colors)


def split(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Cut every triangle in four at the middles of its edges; colours [v, 3] uint8 are averaged there."""
    count = len(vertices)
    ends, index = edges_of(faces, count)
    a, b, c = faces.T
    ab, bc, ca = (index.reshape(-1, 3) + count).T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    cut = np.stack([np.stack(part, axis=1) for part in parts], axis=1).reshape(-1, 3).astype(faces.dtype)
    if colors is not None:
        middle = (colors[ends[0]].astype(np.uint16) + colors[ends[1]] + 1) // 2
        colors = np.concatenate([colors, middle.astype(np.uint8)])
    return np.concatenate([vertices, vertices[ends].mean(0)]), cut, colors


def edges_of(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends [2, e] of every edge, and which edge the sides (0, 1), (1, 2), (2, 0) are [3 f]."""
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    keys, index = np.unique(sides[:, 0] * count + sides[:, 1], return_inverse=True)
    return np.stack([keys // count, keys % count]), index.ravel()


def seen_normals(
    vertices: np.ndarray, faces: np.ndarray, own: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read the normal views at the vertices that they see.

    Args:
        vertices: [v, 3] in the cube.
        faces: [f, 3].
        own: [v, 3] unit normals of the surface itself.
        normals: [5, s, s, 3] uint8 stored normal views on white.

    Returns:
        Unit normals [v, 3] and how far to trust them [v], 0 to 1; 0 where no view sees the vertex.
    """
    total = np.zeros((len(vertices), 3))
    trust = np.zeros(len(vertices))
    depths: dict[tuple[float, ...], np.ndarray] = {}
    for view in range(NUM_VIEWS):
        image = normals[view]
        mask = (image < BACKGROUND).any(axis=-1)
        if not mask.any():
            continue
        direction = np.asarray(VIEWS[view].toward_camera)
        axis = VIEWS[view].column_axis

        def look(points: np.ndarray, axis: int = axis) -> np.ndarray:
            return (np.stack([points[:, axis], -points[:, 2]], 1) / _LOOK_EXTENT + 0.5) * _LOOK

        key = VIEWS[view].toward_camera
        if key not in depths:
            depths[key] = rasterize(look(vertices), faces, _LOOK, _LOOK, vertices @ direction).depth
        cosine = own @ direction
        pixels = project(vertices, view) * len(image)
        within = (pixels > 1).all(1) & (pixels < len(image) - 1).all(1) & (cosine > GRAZING)
        chosen = np.flatnonzero(within)
        at = np.clip(look(vertices[chosen]).astype(np.int64), 0, _LOOK - 1)
        chosen = chosen[vertices[chosen] @ direction >= depths[key][at[:, 1], at[:, 0]] - _BIAS]
        inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        stored = image.astype(np.float32) / 127.5 - 1
        read = _bilinear(np.dstack([stored[..., 0], -stored[..., 2], stored[..., 1], inner]), pixels[chosen])
        length = np.linalg.norm(read[:, :3], axis=1)
        unit = read[:, :3] / np.maximum(length, 1e-6)[:, None]
        agrees = ((unit * own[chosen]).sum(1) - DIFFERS) / (AGREES - DIFFERS)
        weight = cosine[chosen] ** 2 * np.clip((read[:, 3] - 0.5) / BORDER, 0, 1) * np.clip(agrees, 0, 1)
        weight *= (length > 0.6) * (FACE_WEIGHT if view == FACE else 1.0)
        total[chosen] += unit * weight[:, None]
        trust[chosen] += weight
    length = np.linalg.norm(total, axis=1)
    return total / np.maximum(length, 1e-9)[:, None], np.where(length > 1e-6, np.clip(trust, 0, 1), 0)


def _follow(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, hold: float) -> np.ndarray:
    """Return the vertices after one round."""
    own = vertex_normals(vertices, faces, smooth=1).astype(np.float64)
    near = _neighbours(faces, len(vertices))
    calm = own
    for _ in range(OWN_SMOOTHINGS):
        calm = _unit(near @ calm)
    wanted, trust = seen_normals(vertices, faces, calm, normals)
    trust = _away_from_gaps(trust, faces, near)
    aim = _unit(calm * (1 - trust[:, None]) + wanted * trust[:, None])
    (i, j), _ = edges_of(faces, len(vertices))
    along = _unit(aim[i] + aim[j])
    number = np.arange(len(i))
    values = np.concatenate([(along * own[j]).sum(1), -(along * own[i]).sum(1)])
    slopes = coo_matrix(
        (values, (np.tile(number, 2), np.concatenate([j, i]))), shape=(len(i), len(vertices))
    ).tocsr()
    weight = OWN_WEIGHT + (1 - OWN_WEIGHT) * np.minimum(trust[i], trust[j])
    rise = (along * (vertices[j] - vertices[i])).sum(1)
    system = slopes.T @ diags(weight) @ slopes + hold * identity(len(vertices))
    move = cg(system, -slopes.T @ (weight * rise), rtol=1e-3, maxiter=200)[0]
    move = _without_folds(vertices, faces, own, np.clip(move, -LARGEST, LARGEST), near)
    return _calm(vertices + own * move[:, None], near, trust)


def _away_from_gaps(trust: np.ndarray, faces: np.ndarray, near: csr_matrix) -> np.ndarray:
    """Let trust fall smoothly toward what no view sees, where views and surface part."""
    for _ in range(GAP):
        lowest = trust.copy()
        np.minimum.at(lowest, faces.ravel(), np.repeat(trust[faces].min(1), 3))
        trust = lowest
    for _ in range(GAP + 1):
        trust = near @ trust
    return trust


def _without_folds(
    vertices: np.ndarray, faces: np.ndarray, along: np.ndarray, move: np.ndarray, near: csr_matrix
) -> np.ndarray:
    """Even out the moves that would turn a triangle over."""
    before = face_normals(vertices, faces)[0]
    for _ in range(UNFOLDINGS):
        turned = (face_normals(vertices + along * move[:, None], faces)[0] * before).sum(1) < 0.3
        if not turned.any():
            break
        touched = np.zeros(len(vertices))
        touched[faces[turned]] = 1
        touched = near @ (near @ touched) > 0
        move = np.where(touched, 0.8 * (near @ (near @ move)), move)
    return move


def _calm(vertices: np.ndarray, near: csr_matrix, trust: np.ndarray) -> np.ndarray:
    """Smooth what no view sees without shrinking it (Taubin 1995)."""
    loose = (1 - trust)[:, None]
    for step in (0.5, -0.53) * SMOOTHINGS:
        vertices = vertices + step * loose * (near @ vertices - vertices)
    return vertices


def _neighbours(faces: np.ndarray, count: int) -> csr_matrix:
    """Matrix [v, v] that averages over a vertex and, as much, its neighbours."""
    joined = linked(faces, count)
    degree = np.maximum(np.asarray(joined.sum(1)).ravel(), 1)
    return (0.5 * (diags(1 / degree) @ joined + identity(count))).tocsr()


def _bilinear(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Read an image [h, w, c] float32 at pixels [n, 2]; (0, 0) is the outer corner of the first one."""
    width = 4096  # OpenCV maps have fewer than 2^15 rows and columns
    count = len(pixels)
    place = np.zeros((-(-max(count, 1) // width) * width, 2), np.float32)
    place[:count] = pixels - 0.5
    x, y = (np.ascontiguousarray(place[:, i].reshape(-1, width)) for i in (0, 1))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR).reshape(-1, image.shape[2])[:count]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
