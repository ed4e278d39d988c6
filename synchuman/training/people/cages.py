"""Cages: parts of the body's meshes, subdivided and smoothed by a sparse matrix, to build clothes on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from synchuman.training.people.body import Body


@dataclass
class Cage:
    """A subdivided part of the body.

    Attributes:
        index: [n] body vertices it is made from.
        fine: Sparse [N, n], takes their positions to the subdivided, lightly smoothed mesh.
        heavy: Sparse [n, n], smooths the part before that: the base of wide garments.
        quads: [Q, 4] faces of the subdivided mesh.
        reference: [N, 3] fine vertices on the reference body.
        regions: Region coordinates at the fine vertices.
    """

    index: Tensor
    fine: Tensor
    heavy: Tensor
    quads: np.ndarray
    reference: Tensor
    regions: dict[str, np.ndarray]

    def tight(self, posed: Tensor) -> Tensor:
        """The cage [N, 3] on a posed body [V, 3]."""
        return self.fine @ posed[self.index]

    def loose(self, posed: Tensor) -> Tensor:
        """The cage [N, 3] hanging loosely over a posed body [V, 3]."""
        return self.fine @ (self.heavy @ posed[self.index])

    @cached_property
    def all_triangles(self) -> np.ndarray:
        """[F, 3] int32 triangles of the whole cage."""
        return triangulate(self.quads)


def triangulate(quads: np.ndarray) -> np.ndarray:
    """Split quads [Q, 4] into triangles [F, 3] int32; repeated corners mark triangles."""
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    good = (
        (triangles[:, 0] != triangles[:, 1])
        & (triangles[:, 1] != triangles[:, 2])
        & (triangles[:, 0] != triangles[:, 2])
    )
    return triangles[good].astype(np.int32)


def subdivide(quads: np.ndarray, count: int) -> tuple[np.ndarray, sp.csr_matrix]:
    """Split each quad in four: new quads and the sparse [N, count] matrix of the new vertices."""
    edges = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)
    unique, inverse = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    middles = count + inverse.reshape(-1, 4)
    centres = count + len(unique) + np.arange(len(quads))
    rows = np.concatenate(
        [np.arange(count), count + np.repeat(np.arange(len(unique)), 2), np.repeat(centres, 4)]
    )
    columns = np.concatenate([np.arange(count), unique.ravel(), quads.ravel()])
    values = np.concatenate([np.ones(count), np.full(2 * len(unique), 0.5), np.full(4 * len(quads), 0.25)])
    matrix = sp.csr_matrix((values, (rows, columns)), (count + len(unique) + len(quads), count))
    parts = [np.stack([quads[:, i], middles[:, i], centres, middles[:, i - 1]], axis=1) for i in range(4)]
    return np.concatenate(parts), matrix


def smoothing(quads: np.ndarray, count: int, strength: float = 0.5) -> sp.csr_matrix:
    """[count, count] matrix that moves each vertex toward the mean of its neighbours."""
    edges = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1).reshape(-1, 2)
    edges = np.concatenate([edges, edges[:, ::-1]])
    edges = edges[edges[:, 0] != edges[:, 1]]
    graph = sp.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count))
    graph.data[:] = 1.0
    degree = np.maximum(np.asarray(graph.sum(1)).ravel(), 1)
    return (1 - strength) * sp.identity(count) + strength * sp.diags(1 / degree) @ graph


def to_torch(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    """A scipy matrix as a torch sparse CSR tensor, float32."""
    csr = matrix.tocsr().astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*", category=UserWarning)  # "beta state"
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr.astype(np.int64)),
            torch.from_numpy(csr.indices.astype(np.int64)),
            torch.from_numpy(csr.data),
            csr.shape,
        ).to(device)


def build_cage(body: Body, quads: np.ndarray, levels: int, light: int = 2, heavy: int = 8) -> Cage:
    """Build a cage from body faces [Q, 4]: subdivided `levels` times, smoothed `light` or `heavy` times."""
    index, inverse = np.unique(quads, return_inverse=True)
    coarse = fine = inverse.reshape(quads.shape)
    count = len(index)
    matrix = sp.identity(count, format="csr")
    for _ in range(levels):
        fine, step = subdivide(fine, matrix.shape[0])
        matrix = step @ matrix
    blur = smoothing(fine, matrix.shape[0])
    coarse_blur = smoothing(coarse, count)
    light_blur = matrix
    for _ in range(light):
        light_blur = blur @ light_blur
    heavy_blur = sp.identity(count, format="csr")
    for _ in range(heavy):
        heavy_blur = coarse_blur @ heavy_blur
    device = body.template.device
    reference = torch.from_numpy(matrix @ body.reference.cpu().numpy()[index]).float().to(device)
    return Cage(
        index=torch.from_numpy(index).to(device),
        fine=to_torch(light_blur, device),
        heavy=to_torch(heavy_blur, device),
        quads=fine,
        reference=reference,
        regions={name: matrix @ values[index] for name, values in body.regions.items()},
    )


def body_cages(body: Body) -> dict[str, Cage]:
    """The cages clothes are made on: tights (trunk and limbs), skirt, scalp."""
    skin = body.quads["body"]
    head = (body.regions["head"][skin] > 0.5).all(1)
    return {
        "tights": build_cage(body, body.quads["tights"], 2),
        "skirt": build_cage(body, body.quads["skirt"], 2, light=3),
        "scalp": build_cage(body, skin[head], 1, light=2, heavy=6),
    }
