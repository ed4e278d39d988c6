"""Colours where no image shows the surface well: from the decoder, or failing that from the neighbourhood."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from synchuman.surface.mesh import DenseMesh, vertex_normals

_DECODED_WEIGHT = 0.01  # of the decoder beside the images' cos^4: they part at about 70 degrees
_SEED = 0.004  # weight from which texels lend their colour to unseen ones
_DECODED_SHARE = 0.1  # of the decoder in a texel from which on it is looked up
_MATCHED = 20_000  # texels at most by which the decoder's exposure is matched
_NEAREST = 4  # dense vertices that a texel is mixed from
_CLOSE = 2e-3  # units of the cube within which dense vertices count alike


def exposure(
    color: np.ndarray, weight: np.ndarray, wanted: np.ndarray, wanted_weight: np.ndarray
) -> np.ndarray:
    """Find the gain per channel [3] that brings one source to another where both see the surface well."""
    both = (weight > 0.02) & (wanted_weight > 0.02)
    if both.sum() < 500:
        return np.ones(3, np.float32)
    ratio = (wanted[both] + 8) / (color[both] + 8)
    return np.clip(np.median(ratio, axis=0), 0.75, 1.33).astype(np.float32)


def blend_decoded(
    color: np.ndarray, weight: np.ndarray, points: np.ndarray, normals: np.ndarray, dense: DenseMesh
) -> None:
    """Mix the decoder's colours, matched in exposure, into texels, in place, the more the less is seen.

    Args:
        color: [n, 3] float32 in 0..255 from the images; of no meaning where the weight is 0.
        weight: [n] what the images see of a texel; 1 is straight and free.
        points: [n, 3] of the texels.
        normals: [n, 3] unit normals.
        dense: The decoded surface, with colours.
    """
    images = np.minimum(weight / (weight + _DECODED_WEIGHT) / (1 - _DECODED_SHARE), 1)
    well = np.flatnonzero(weight > 0.2)
    well = well[:: max(1, len(well) // _MATCHED)]
    decoded = _Decoded(dense)
    ones = np.ones(len(well), np.float32)
    gain = exposure(decoded.at(points[well], normals[well]), ones, color[well], ones)
    little = np.flatnonzero(images < 1)
    wanted = np.clip(decoded.at(points[little], normals[little]) * gain, 0, 255)
    color[little] = wanted + (color[little] - wanted) * images[little, None]


def fill_from_neighbours(
    color: np.ndarray, weight: np.ndarray, points: np.ndarray, normals: np.ndarray
) -> None:
    """Colour texels of weight 0, in place, from well seen ones that are near and face a similar way."""
    unseen, seen = np.flatnonzero(weight == 0), np.flatnonzero(weight > _SEED)
    if not len(seen):
        seen = np.flatnonzero(weight)
    if not len(unseen):
        return
    seeds = seen[:: max(1, len(seen) // 60_000)]
    places = np.concatenate([points, normals * 0.03], axis=1)
    tree = cKDTree(places[seeds])
    distance, index = tree.query(places[unseen], k=min(12, len(seeds)), workers=-1)
    share = 1 / (distance.reshape(len(unseen), -1) ** 2 + 1e-5)
    near = color[seeds][index.reshape(len(unseen), -1)]
    color[unseen] = (near * share[..., None]).sum(1) / share.sum(1)[:, None]


class _Decoded:
    """The decoder's colours anywhere near its surface."""

    def __init__(self, dense: DenseMesh) -> None:
        assert dense.colors is not None
        self.colors = dense.colors.astype(np.float32)
        self.normals = vertex_normals(dense.vertices, dense.faces, smooth=1)
        self.tree = cKDTree(dense.vertices)

    def at(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Mix the colours [n, 3] of the nearest vertices; those that face another way hardly count."""
        k = min(_NEAREST, len(self.colors))
        distance, index = self.tree.query(points, k=k, workers=-1)
        distance, index = distance.reshape(len(points), k), index.reshape(len(points), k)
        alike = np.clip(np.einsum("nkc,nc->nk", self.normals[index], normals), 0.01, 1)
        weight = alike / (distance**2 + _CLOSE**2)
        return (self.colors[index] * weight[..., None]).sum(1) / weight.sum(1)[:, None]
