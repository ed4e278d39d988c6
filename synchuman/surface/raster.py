"""The pixels of triangles as arrays: for previews, depth maps and texel lookup on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from synchuman.surface.scan import scan_convert


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes:
        face: [h, w] int32 index of the nearest face, -1 where there is none.
        bary: [h, w, 2] float32 weights of the second and the third corner of that face.
        depth: [h, w] float32 depth of the hit, -inf where there is none.
        covered: [f] pixels that each face covers, hidden or not.
    """

    face: np.ndarray
    bary: np.ndarray
    depth: np.ndarray
    covered: np.ndarray

    def interpolate(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Interpolate values [v, c] at the covered pixels; [n, c] float32 in the order of `np.nonzero`."""
        covered = self.face >= 0
        corner = faces[self.face[covered]]
        weight = self.bary[covered]
        first = values[corner[:, 0]] * (1 - weight.sum(1))[:, None]
        mixed = first + values[corner[:, 1]] * weight[:, :1] + values[corner[:, 2]] * weight[:, 1:]
        return mixed.astype(np.float32)


def rasterize(
    pixels: np.ndarray, faces: np.ndarray, height: int, width: int, depth: np.ndarray | None = None
) -> Fragments:
    """Find for every pixel centre the nearest triangle that covers it.

    Args:
        pixels: [v, 2] (column, row) of the vertices in pixels; (0, 0) is the outer corner of the first pixel.
        faces: [f, 3].
        height: Rows of the image.
        width: Columns of the image.
        depth: [v], larger is nearer; None when no two triangles overlap.

    Returns:
        The fragments; both windings are drawn.
    """
    given = None if depth is None else torch.from_numpy(np.ascontiguousarray(depth))
    corners = torch.from_numpy(np.ascontiguousarray(faces))
    hits = scan_convert(torch.from_numpy(np.ascontiguousarray(pixels)), corners, height, width, given)
    index = hits.index.numpy()
    face = np.full(height * width, -1, np.int32)
    bary = np.zeros((height * width, 2), np.float32)
    near = np.full(height * width, -np.inf, np.float32)
    face[index], bary[index], near[index] = hits.face.numpy(), hits.bary.numpy(), hits.depth.numpy()
    shape = (height, width)
    return Fragments(face.reshape(shape), bary.reshape(*shape, 2), near.reshape(shape), hits.covered.numpy())
