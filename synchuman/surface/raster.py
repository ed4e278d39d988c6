"""A triangle rasteriser in numpy: for depth maps, for texel lookup in an atlas and for previews."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Candidate pixels handled at once; bounds the memory of a pass to some 100 MiB.
CANDIDATES = 1_500_000


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
    x, y = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
    px, py = x[faces], y[faces]
    x0, x1 = _span(px, width)
    y0, y1 = _span(py, height)
    area = (px[:, 1] - px[:, 0]) * (py[:, 2] - py[:, 0]) - (px[:, 2] - px[:, 0]) * (py[:, 1] - py[:, 0])
    wide, high = np.maximum(x1 - x0 + 1, 0), np.maximum(y1 - y0 + 1, 0)
    wide[np.abs(area) < 1e-12] = 0
    used = np.flatnonzero((wide > 0) & (high > 0))

    face_map = np.full(height * width, -1, np.int32)
    bary_map = np.zeros((height * width, 2), np.float32)
    depth_map = np.full(height * width, -np.inf, np.float32)
    covered = np.zeros(len(faces), np.int64)
    count = (wide * high)[used]
    ends = np.cumsum(count)
    begin = 0
    while begin < len(used):
        floor = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, floor + CANDIDATES, side="right")), begin + 1)
        part, number = used[begin:end], count[begin:end]
        begin = end
        triangle = np.repeat(part, number)
        k = np.arange(len(triangle)) - np.repeat(np.cumsum(number) - number, number)
        row, column = np.divmod(k, wide[triangle])
        row, column = row + y0[triangle], column + x0[triangle]
        ax, ay = px[triangle, 0], py[triangle, 0]
        dx, dy = column - ax, row - ay
        w1 = (dx * (py[triangle, 2] - ay) - dy * (px[triangle, 2] - ax)) / area[triangle]
        w2 = (dy * (px[triangle, 1] - ax) - dx * (py[triangle, 1] - ay)) / area[triangle]
        inside = (w1 >= -1e-9) & (w2 >= -1e-9) & (w1 + w2 <= 1 + 1e-9)
        triangle, w1, w2 = triangle[inside], w1[inside], w2[inside]
        covered += np.bincount(triangle, minlength=len(faces))
        pixel = row[inside] * width + column[inside]
        if depth is None:
            near = np.zeros(len(pixel), np.float32)
        else:
            corners = depth[faces[triangle]]
            near = corners[:, 0] * (1 - w1 - w2) + corners[:, 1] * w1 + corners[:, 2] * w2
            nearer = np.flatnonzero(near > depth_map[pixel])
            # The last of several assignments to one pixel stays: the nearest, after sorting.
            order = nearer[np.argsort(near[nearer], kind="stable")]
            pixel, triangle, w1, w2, near = pixel[order], triangle[order], w1[order], w2[order], near[order]
        face_map[pixel] = triangle
        bary_map[pixel, 0], bary_map[pixel, 1] = w1, w2
        depth_map[pixel] = near
    shape = (height, width)
    return Fragments(face_map.reshape(shape), bary_map.reshape(*shape, 2), depth_map.reshape(shape), covered)


def _span(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixel centre within each triangle's extent along one axis."""
    low = np.ceil(corners.min(1) - 1e-9).clip(0, size).astype(np.int64)
    high = np.floor(corners.max(1) + 1e-9).clip(-1, size - 1).astype(np.int64)
    return low, high
