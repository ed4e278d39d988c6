"""Hidden inside filled and floaters removed, on the grid before extraction and on meshes after it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# A part of the body this small beside the largest one is noise.
SMALLEST_PART = 0.05
# Rays along the six axis directions that must meet the shell for a voxel to count as inside.
HITS_INSIDE = 5
CHAMBER = 2.5  # voxels from its middle to the shell that make a surrounded space more than a crease


def fill_inside(occupied: np.ndarray, radii: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Fill what a shell of voxels encloses, also when the shell has holes.

    A voxel is inside when the outside cannot reach it through the shell. As one missing voxel would let an
    exact flood in, the outside is a ball of a radius of one, then two voxels; narrow gaps that only the ball
    cannot enter (between legs, under arms) stay outside. Larger holes on one side are closed too: chambers
    whose voxels meet the shell along at least five of the six axis directions.

    Args:
        occupied: [n, n, n] bool, the shell or a solid.
        radii: Radii of the ball in voxels.

    Returns:
        [n, n, n] bool, the solid.
    """
    solid = ndimage.binary_fill_holes(occupied)
    pad = max(radii) + 2
    for radius in radii:
        empty = np.pad(~solid, pad, constant_values=True)
        room = ndimage.distance_transform_edt(empty)
        labels, _ = ndimage.label(room > radius)
        outside = ndimage.binary_dilation(labels == labels[0, 0, 0], iterations=radius, mask=empty)
        solid |= _wide(empty & ~outside, room, radius + 0.5)[pad:-pad, pad:-pad, pad:-pad]
    hits = np.zeros(occupied.shape, np.int8)
    for axis in range(3):
        ahead = np.logical_or.accumulate(occupied, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(occupied, axis), axis=axis), axis)
        hits += ahead.astype(np.int8) + behind.astype(np.int8)
    # Creases are surrounded too, but narrow; what is surrounded and wide is an open chamber of the body.
    solid |= _wide(~solid & (hits >= HITS_INSIDE), ndimage.distance_transform_edt(~solid), CHAMBER)
    return ndimage.binary_fill_holes(solid)


def _wide(region: np.ndarray, room: np.ndarray, width: float) -> np.ndarray:
    """Keep the connected parts of a region with more room than a width somewhere."""
    labels, count = ndimage.label(region)
    wide = np.append(False, ndimage.maximum(room, labels, np.arange(1, count + 1)) > width)
    return wide[labels]


def drop_small_parts(solid: np.ndarray, smallest: float = SMALLEST_PART) -> np.ndarray:
    """Keep the connected parts of a solid that have at least this share of the largest part's voxels."""
    labels, count = ndimage.label(solid, structure=np.ones((3, 3, 3)))
    if count < 2:
        return solid
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0
    return (voxels >= smallest * voxels.max())[labels] & solid


def drop_floaters(
    vertices: np.ndarray, faces: np.ndarray, smallest: float = SMALLEST_PART
) -> tuple[np.ndarray, np.ndarray]:
    """Drop bodies of a mesh with less than this share of the largest body's faces, and unused vertices.

    Also drops inner walls: a closed body that is turned inside out bounds a cavity.
    """
    rows, columns = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(vertices),) * 2)
    count, body = connected_components(graph, directed=False)
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.bincount(body[faces[:, 0]], np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    size = np.bincount(body[faces[:, 0]], minlength=count)
    keep = (size >= smallest * size.max()) & (volume * np.sign(volume[size.argmax()]) > 0)
    return drop_unused(vertices, faces[keep[body[faces[:, 0]]]])


def drop_unused(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop vertices that no face uses and number the rest anew."""
    used, index = np.unique(faces, return_inverse=True)
    return vertices[used], index.reshape(faces.shape).astype(np.int32)
