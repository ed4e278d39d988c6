"""Voxels that a surface touches."""

from __future__ import annotations

import torch
from torch import Tensor


def surface_voxels(vertices: Tensor, triangles: Tensor, resolution: int) -> Tensor:
    """Voxels of the cube [-0.5, 0.5]^3 that the surface touches.

    Every triangle is sampled on a barycentric grid finer than half a voxel, in four classes of size,
    so that a few large ones do not cost the many small ones.

    Returns:
        [n, n, n] bool, indexed (x, y, z).
    """
    grid = torch.zeros(resolution**3, dtype=torch.bool, device=vertices.device)
    corners = vertices[triangles.long()] + 0.5
    edges = (
        torch.stack([(corners[:, i] - corners[:, i - 1]).norm(dim=1) for i in range(3)]).amax(0) * resolution
    )
    for low, high, steps in ((0.0, 0.5, 1), (0.5, 2.0, 4), (2.0, 8.0, 16), (8.0, 32.0, 64)):
        chosen = corners[(edges >= low) & (edges < high)]
        if not len(chosen):
            continue
        pairs = [(i / steps, j / steps) for i in range(steps + 1) for j in range(steps + 1 - i)]
        u, v = vertices.new_tensor(pairs).T[:, None, :, None]
        samples = chosen[:, None, 0] * (1 - u - v) + chosen[:, None, 1] * u + chosen[:, None, 2] * v
        cells = (samples.reshape(-1, 3) * resolution).long().clamp(0, resolution - 1)
        grid[(cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]] = True
    return grid.view(resolution, resolution, resolution)
