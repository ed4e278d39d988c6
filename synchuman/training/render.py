"""A small z-buffer rasteriser for training data: numba on the CPU, a CUDA kernel on the GPU, one function."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor


@dataclass
class Hits:
    """Pixels that see a surface.

    Attributes:
        pixels: [N] flat pixel indices (row * width + column).
        faces: [N] index of the triangle seen.
        weights: [N, 3] barycentric weights of its corners.
        depths: [N] depth as passed in (larger is nearer).
    """

    pixels: Tensor
    faces: Tensor
    weights: Tensor
    depths: Tensor

    def interpolate(self, values: Tensor, triangles: Tensor) -> Tensor:
        """Interpolate per-vertex `values` [V, C] at the hits: [N, C]."""
        corners = values[triangles[self.faces]]
        return (corners * self.weights[..., None]).sum(1)


@numba.njit(cache=True, fastmath=False, nogil=True)
def _zbuffer(points, triangles, height, width, both, ids, depths):  # pragma: no cover
    for f in range(triangles.shape[0]):
        a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        left = max(int(np.ceil(min(ax, bx, cx) - 0.5)), 0)
        right = min(int(np.floor(max(ax, bx, cx) - 0.5)), width - 1)
        top = max(int(np.ceil(min(ay, by, cy) - 0.5)), 0)
        bottom = min(int(np.floor(max(ay, by, cy) - 0.5)), height - 1)
        inverse = 1.0 / area
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                x, y = column + 0.5, row + 0.5
                wa = ((bx - x) * (cy - y) - (by - y) * (cx - x)) * inverse
                wb = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) * inverse
                wc = 1.0 - wa - wb
                if wa < -1e-5 or wb < -1e-5 or wc < -1e-5:
                    continue
                depth = wa * az + wb * bz + wc * cz
                if depth >= depths[0, row, column]:
                    depths[0, row, column] = depth
                    ids[0, row, column] = f
                if both and -depth >= depths[1, row, column]:
                    depths[1, row, column] = -depth
                    ids[1, row, column] = f


def _face_ids(points: Tensor, triangles: Tensor, height: int, width: int, both: bool) -> Tensor:
    """[1 or 2, H, W] index of the nearest (and of the farthest) triangle at each pixel, -1 where none."""
    if points.is_cuda:
        from synchuman.training.render_cuda import face_ids

        return face_ids(points, triangles, height, width, both)
    layers = 2 if both else 1
    ids = np.full((layers, height, width), -1, np.int32)
    depths = np.full((layers, height, width), -np.inf, np.float32)
    _zbuffer(points.numpy(), triangles.numpy(), height, width, both, ids, depths)
    return torch.from_numpy(ids)


def rasterize(points: Tensor, triangles: Tensor, height: int, width: int, both: bool = False) -> list[Hits]:
    """Find what each pixel sees.

    Args:
        points: [V, 3] float32 (column, row, depth) in pixels; pixel (r, c) is centred on (c + .5, r + .5);
            a larger depth is nearer.
        triangles: [F, 3] int32, same device.
        both: Also return what a camera on the other side of an orthographic view sees (the farthest surface).

    Returns:
        One or two `Hits`. Deterministic: of equal depths the later triangle wins.
    """
    ids = _face_ids(points.contiguous(), triangles.contiguous(), height, width, both)
    result = []
    for layer in ids.flatten(1):
        pixels = torch.nonzero(layer >= 0)[:, 0]
        faces = layer[pixels].long()
        corners = points[triangles[faces].long()]
        centre = torch.stack([pixels % width, pixels // width], dim=1).float() + 0.5
        offsets = corners[..., :2] - centre[:, None]
        a, b, c = offsets.unbind(1)
        weights = torch.stack(
            [
                b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0],
                c[:, 0] * a[:, 1] - c[:, 1] * a[:, 0],
                a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
            ],
            dim=1,
        )
        weights = weights / weights.sum(1, keepdim=True)
        depths = (corners[..., 2] * weights).sum(1)
        result.append(Hits(pixels, faces, weights, depths))
    return result


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Area-weighted unit normals [V, 3]; counter-clockwise triangles face outward."""
    corners = vertices[triangles.long()]
    face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(0, triangles[:, corner].long(), face_normals)
    return torch.nn.functional.normalize(normals, dim=1)
