"""Colours where no image shows the surface well: from the decoder, or failing that from the neighbourhood."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from synchuman.surface.look import Texels
from synchuman.surface.mesh import DenseMesh, vertex_normals

_DECODED_WEIGHT = 0.01  # of the decoder beside the images' cos^4: they part at about 70 degrees
_SEED = 0.004  # weight from which texels lend their colour to unseen ones
_SEEDS = 60_000  # of them at most
_DECODED_SHARE = 0.1  # of the decoder in a texel from which on it is looked up
_MATCHED = 20_000  # texels at most by which the decoder's exposure is matched
_NEAREST = 4  # dense vertices that a texel is mixed from
_CLOSE = 2e-3  # units of the cube within which dense vertices count alike


def exposure(color: Tensor, weight: Tensor, wanted: Tensor, wanted_weight: Tensor) -> Tensor:
    """Find the gain per channel [3] that brings one source to another where both see the surface well."""
    both = (weight > 0.02) & (wanted_weight > 0.02)
    if int(both.sum()) < 500:
        return color.new_ones(3)
    ratio = (wanted[both] + 8) / (color[both] + 8)
    return ratio.median(dim=0).values.clamp(0.75, 1.33)


def blend_decoded(color: Tensor, weight: Tensor, texels: Texels, decoded: Decoded) -> None:
    """Mix the decoder's colours, matched in exposure, into texels, in place, the more the less is seen.

    Args:
        color: [n, 3] float32 in 0..255 from the images; of no meaning where the weight is 0.
        weight: [n] what the images see of a texel; 1 is straight and free.
        texels: The texels.
        decoded: The decoder's colours.
    """
    images = (weight / (weight + _DECODED_WEIGHT) / (1 - _DECODED_SHARE)).clamp(max=1)
    well = (weight > 0.2).nonzero()[:, 0]
    well = well[:: max(1, len(well) // _MATCHED)]
    ones = color.new_ones(len(well))
    gain = exposure(decoded.at(texels.points[well], texels.normals[well]), ones, color[well], ones)
    little = (images < 1).nonzero()[:, 0]
    wanted = (decoded.at(texels.points[little], texels.normals[little]) * gain).clamp(0, 255)
    color[little] = wanted + (color[little] - wanted) * images[little, None]


def fill_from_neighbours(color: Tensor, weight: Tensor, texels: Texels) -> None:
    """Colour texels of weight 0, in place, from well seen ones that are near and face a similar way."""
    unseen, seen = (weight == 0).nonzero()[:, 0], (weight > _SEED).nonzero()[:, 0]
    if not len(seen):
        seen = (weight > 0).nonzero()[:, 0]
    if not len(unseen):
        return
    seeds = seen[:: max(1, len(seen) // _SEEDS)]

    def places(index: Tensor) -> np.ndarray:
        return torch.cat([texels.points[index], texels.normals[index] * 0.03], 1).cpu().numpy()

    near = color[seeds]
    mixed, total = color.new_zeros((len(unseen), 3)), color.new_zeros((len(unseen), 1))
    for distance, index in _nearest(cKDTree(places(seeds)), places(unseen), 12, color.device):
        share = (1 / (distance**2 + 1e-5))[:, None]
        mixed += near[index] * share
        total += share
    color[unseen] = mixed / total


class Decoded:
    """The decoder's colours anywhere near its surface."""

    def __init__(self, dense: DenseMesh, device: torch.device) -> None:
        assert dense.colors is not None
        self.colors = torch.from_numpy(dense.colors).to(device).float()
        self.normals = torch.from_numpy(vertex_normals(dense.vertices, dense.faces, smooth=1)).to(device)
        self.tree = cKDTree(dense.vertices)

    def at(self, points: Tensor, normals: Tensor) -> Tensor:
        """Mix the colours [n, 3] of the nearest vertices; those that face another way hardly count."""
        mixed, total = torch.zeros_like(points), points.new_zeros((len(points), 1))
        for distance, index in _nearest(self.tree, points.cpu().numpy(), _NEAREST, points.device):
            x, y, z = (self.normals[index] * normals).unbind(1)
            weight = ((x + y + z).clamp(0.01, 1) / (distance**2 + _CLOSE**2))[:, None]
            mixed += self.colors[index] * weight
            total += weight
        return mixed / total


def _nearest(
    tree: cKDTree, places: np.ndarray, count: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Distances [n] and indices [n] of the nearest, the second nearest and so on, as many as there are."""
    distance, index = tree.query(places, k=range(1, min(count, tree.n) + 1), workers=-1)
    distances = torch.from_numpy(np.ascontiguousarray(distance.T, np.float32)).to(device)
    indices = torch.from_numpy(np.ascontiguousarray(index.T)).to(device)
    return list(zip(distances, indices))
