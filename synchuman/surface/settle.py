"""Lays a detailed surface, on the whole, where a plainer one is."""

from __future__ import annotations

import numpy as np
from scipy.sparse import diags
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from synchuman.surface.mesh import DenseMesh, linked, vertex_normals

REACH = 0.02  # units of the cube; what is farther from the plainer surface is something of its own
SAME_SIDE = 0.5  # cosine between both surfaces' normals above which one lies on the other
STIFFNESS = 500.0  # of the offset: its square root is about the waves it keeps, in edges of the mesh
LARGEST = 0.006  # units of the cube that a vertex may move


def settle(dense: DenseMesh, place: DenseMesh) -> DenseMesh:
    """Move a surface along its normals by a smooth offset, until it lies on the whole where `place` is.

    A decoder can make loose clothes fuller than the structure says. The offset is the smoothest that explains
    the signed distances of the vertices to `place`: least squares of both its differences along edges and of
    what remains (a screened Poisson problem on the mesh), so detail stays as it is.

    Args:
        dense: Closed, in the cube.
        place: A surface of the same person with unreliable detail.

    Returns:
        The surface with the same triangles and colours.
    """
    vertices = dense.vertices.astype(np.float64)
    own = vertex_normals(vertices, dense.faces, smooth=3).astype(np.float64)
    beside = vertex_normals(place.vertices, place.faces).astype(np.float64)
    far, index = cKDTree(place.vertices).query(vertices)
    there = beside[index]
    distance = ((vertices - place.vertices[index]) * there).sum(1)
    counts = ((far < REACH) & ((own * there).sum(1) > SAME_SIDE)).astype(np.float64)
    joined = linked(dense.faces, len(vertices))
    laplacian = diags(np.asarray(joined.sum(1)).ravel()) - joined
    system = diags(counts + 1e-6) + STIFFNESS * laplacian
    offset = cg(system, counts * distance, rtol=1e-3, maxiter=500)[0]
    moved = vertices - own * np.clip(offset, -LARGEST, LARGEST)[:, None]
    return DenseMesh(moved.astype(np.float32), dense.faces, dense.colors)
