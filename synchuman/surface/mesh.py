"""The triangle meshes that pass through the surface room, and the measures taken on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

# Called as checkpoint(stage, step, total); it may raise `events.Cancelled` to stop the work.
Checkpoint = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DenseMesh:
    """A closed surface as it was extracted, in the z-up unit cube of `synchuman.views`.

    Attributes:
        vertices: [v, 3] float32.
        faces: [f, 3] int32, counter-clockwise seen from outside.
        colors: [v, 3] uint8 sRGB that the decoder gave; None for a surface without.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None


@dataclass(frozen=True)
class TexturedMesh:
    """A closed surface with a colour texture, in the z-up unit cube of `synchuman.views`.

    Attributes:
        vertices: [v, 3] float32; a vertex on a chart border appears once per chart.
        faces: [f, 3] int32, counter-clockwise seen from outside.
        uv: [v, 2] float32 in [0, 1]; (0, 0) is the top left corner of the texture, as in glTF.
        texture: [t, t, 3] uint8 sRGB.
        normals: [v, 3] float32 unit normals, equal on both sides of a chart border.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    texture: np.ndarray
    normals: np.ndarray


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit normals [f, 3] and areas [f] of the faces; a face without area has the normal zero."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-20)[:, None], length / 2


def vertex_normals(vertices: np.ndarray, faces: np.ndarray, smooth: int = 0) -> np.ndarray:
    """Return [v, 3] float32 unit normals weighted by the areas of the faces around each vertex.

    Args:
        vertices: [v, 3].
        faces: [f, 3].
        smooth: Times the normals are averaged over the neighbouring vertices.
    """
    unit, area = face_normals(vertices, faces)
    normals = _scatter(unit * area[:, None], faces, len(vertices))
    normals = _unit(normals)
    for _ in range(smooth):
        normals = _unit(normals + _unit(_scatter(normals[faces].sum(1), faces, len(vertices))))
    return normals.astype(np.float32)


def is_watertight(faces: np.ndarray) -> bool:
    """Tell whether every edge is shared by exactly two faces that run through it in opposite directions."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    n = int(faces.max()) + 1
    forward = np.sort(edges[:, 0] * n + edges[:, 1])
    backward = np.sort(edges[:, 1] * n + edges[:, 0])
    return bool((forward[1:] != forward[:-1]).all() and (forward == backward).all())


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join vertices at the very same place, such as those of a chart border.

    Returns:
        The vertices [w, 3], the faces [f, 3] int32 into them, and the welded index of every vertex [v].
    """
    # Adding zero turns -0 into 0: places are compared bit by bit.
    points = np.ascontiguousarray(vertices + np.zeros(1, vertices.dtype))
    rows = points.view(np.dtype((np.void, points.dtype.itemsize * 3))).ravel()
    _, first, index = np.unique(rows, return_index=True, return_inverse=True)
    index = index.ravel().astype(np.int32)
    return vertices[first], index[faces], index


def face_neighbours(faces: np.ndarray) -> np.ndarray:
    """Return [e, 2] pairs of faces that share an edge."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    key = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    owner = np.repeat(np.arange(len(faces)), 3)
    return np.stack([owner[order[same]], owner[order[same + 1]]], axis=1)


def _scatter(values: np.ndarray, faces: np.ndarray, n: int) -> np.ndarray:
    """Sum one value per face [f, 3] onto its three vertices."""
    index = faces.reshape(-1)
    repeated = np.repeat(values, 3, axis=0)
    return np.stack([np.bincount(index, repeated[:, k], n) for k in range(3)], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def linked(faces: np.ndarray, count: int) -> csr_matrix:
    """Return the matrix [count, count] that is 1 where an edge of a closed surface joins two vertices."""
    rows = faces[:, [0, 1, 1, 2, 2, 0]].ravel()
    columns = faces[:, [1, 0, 2, 1, 0, 2]].ravel()
    # Two triangles meet at every edge.
    return coo_matrix((np.full(len(rows), 0.5), (rows, columns)), shape=(count, count)).tocsr()
