"""Triangles to pixels in torch, on any device: row by row, the nearest triangle wins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Pixels of the triangles' extents that are handled at once; bounds the memory of a pass to some 200 MiB.
CANDIDATES = 6_000_000

_INSIDE = 1e-9  # barycentric weight that a pixel centre may lie outside
_NO_AREA = 1e-12  # square pixels below which a triangle is not drawn
_NOTHING = torch.iinfo(torch.int64).min
_FACE_BITS = 32
_PART = 2**20  # pixels whose weights are computed at once


@dataclass(frozen=True)
class Hits:
    """What the covered pixels of an image see, all on one device.

    Attributes:
        index: [n] int64 covered pixels, row * width + column, ascending.
        face: [n] int64 nearest face of each.
        bary: [n, 2] float32 weights of the second and the third corner of that face.
        depth: [n] float32 depth; 0 when none was given.
        covered: [f] int64 pixels that each face covers, hidden or not.
    """

    index: Tensor
    face: Tensor
    bary: Tensor
    depth: Tensor
    covered: Tensor

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """Interpolate values [v, c] at the covered pixels; [n, c] float32."""
        mixed = values.new_zeros((len(self.face), values.shape[1]), dtype=torch.float32)
        second, third = self.bary[:, :1], self.bary[:, 1:]
        for corner, weight in enumerate((1 - second - third, second, third)):
            mixed.addcmul_(values[faces[self.face, corner].long()].float(), weight)
        return mixed

    def depth_map(self, height: int, width: int, beyond: float) -> Tensor:
        """Lay the depths out as an image [h, w], with `beyond` where there is nothing."""
        image = self.depth.new_full((height * width,), beyond)
        image[self.index] = self.depth
        return image.view(height, width)


def scan_convert(pixels: Tensor, faces: Tensor, height: int, width: int, depth: Tensor | None = None) -> Hits:
    """Find for every pixel centre the nearest triangle that covers it.

    The three barycentric weights are linear along a row, which gives the row's span in closed form (Pineda,
    "A parallel algorithm for polygon rasterization", 1988). The winner of a pixel is the largest of 64-bit
    keys of depth and face, so that the result does not depend on the order of the work.

    Args:
        pixels: [v, 2] (column, row) of the vertices in pixels; (0, 0) is the outer corner of the first pixel.
        faces: [f, 3] integers, on the same device.
        height: Rows of the image.
        width: Columns of the image.
        depth: [v], larger is nearer; None when no two triangles overlap. Of equal ones the later face wins.

    Returns:
        The hits; both windings are drawn.
    """
    device = pixels.device
    faces = faces.long()
    triangles = _Triangles(pixels.double(), faces, height, width, None if depth is None else depth.double())
    best = torch.full((height * width,), _NOTHING, dtype=torch.int64, device=device)
    covered = torch.zeros(len(faces), dtype=torch.int64, device=device)
    for begin, end in triangles.parts():
        face, pixel, near = triangles.candidates(begin, end, width, covered)
        if near is not None:
            face += _ordered(near).long() << _FACE_BITS
        best.scatter_reduce_(0, pixel, face, "amax")
    index = (best != _NOTHING).nonzero()[:, 0]
    key = best[index]
    del best
    face = key & ((1 << _FACE_BITS) - 1)
    # Without depths the upper half of the keys is 0, which is the depth 0.
    return Hits(
        index, face, triangles.bary(face, index, width), _unordered((key >> _FACE_BITS).int()), covered
    )


class _Triangles:
    """Extents of triangles in pixels, and their barycentric weights as linear functions."""

    def __init__(self, pixels: Tensor, faces: Tensor, height: int, width: int, depth: Tensor | None) -> None:
        corners = (pixels - 0.5)[faces]
        ends = pixels.new_tensor([width, height])
        first = (corners.amin(1) - _INSIDE).ceil().clamp(min=0)
        last = torch.minimum((corners.amax(1) + _INSIDE).floor(), ends - 1)
        self.origin = corners[:, 0]
        (bx, by), (cx, cy) = (corners[:, 1] - self.origin).T, (corners[:, 2] - self.origin).T
        area = bx * cy - by * cx
        drawn = (area.abs() >= _NO_AREA) & (first <= last).all(1)
        area = torch.where(drawn, area, 1)
        self.second, self.third = torch.stack([cy, -cx], 1), torch.stack([-by, bx], 1)  # over column, row
        self.second /= area[:, None]
        self.third /= area[:, None]
        self.first_column, self.last_column = first[:, 0], last[:, 0]
        self.first_row = first[:, 1]
        sides = (last - first + 1).clamp(min=0).long() * drawn[:, None]
        self.rows = sides[:, 1]
        self.extent = sides.prod(1)
        self.depth = None if depth is None else depth[faces]

    def parts(self) -> list[tuple[int, int]]:
        """Split the faces into runs of at most `CANDIDATES` pixels of extent, or of one face."""
        if not len(self.extent):
            return []
        ends = self.extent.cumsum(0).cpu()
        if int(ends[-1]) <= CANDIDATES:
            return [(0, len(ends))]
        parts, begin, done = [], 0, 0
        while begin < len(ends):
            end = int(torch.searchsorted(ends, done + CANDIDATES, right=True))
            end = max(end, begin + 1)
            parts.append((begin, end))
            begin, done = end, int(ends[end - 1])
        return parts

    def candidates(
        self, begin: int, end: int, width: int, covered: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return faces, pixels and depths of all pixel centres inside the faces of a run; count them."""
        rows = self.rows[begin:end]
        before = rows.cumsum(0) - rows
        face = torch.arange(begin, end, device=rows.device).repeat_interleave(rows)
        row = (self.first_row[begin:end] - before).repeat_interleave(rows, output_size=len(face))
        row += torch.arange(len(face), device=rows.device)
        origin = self.origin[face]
        dy = row - origin[:, 1]
        second, third = self.second[face], self.third[face]
        low, high = self.first_column[face], self.last_column[face]
        for slope, weight in (
            (second[:, 0], second[:, 1] * dy),
            (third[:, 0], third[:, 1] * dy),
            (-second[:, 0] - third[:, 0], 1 - (second[:, 1] + third[:, 1]) * dy),
        ):
            weight = weight + _INSIDE
            edge = origin[:, 0] - weight / slope
            low = torch.where(slope > 0, torch.maximum(low, edge.ceil()), low)
            high = torch.where(slope < 0, torch.minimum(high, edge.floor()), high)
            high = torch.where((slope == 0) & (weight < 0), low - 1, high)
        count = (high - low + 1).clamp(min=0).long()
        covered.index_add_(0, face, count)

        start = count.cumsum(0) - count
        span = torch.arange(len(face), device=rows.device).repeat_interleave(count)
        step = torch.arange(len(span), device=rows.device)
        pixel = (row.long() * width + low.long() - start)[span] + step
        if self.depth is None:
            return face[span], pixel, None
        corner = self.depth[face]
        rise = corner[:, 1:] - corner[:, :1]
        slope = second[:, 0] * rise[:, 0] + third[:, 0] * rise[:, 1]
        upward = second[:, 1] * rise[:, 0] + third[:, 1] * rise[:, 1]
        depth = corner[:, 0] + slope * (low - origin[:, 0] - start) + upward * dy
        return face[span], pixel, depth[span] + slope[span] * step

    def bary(self, face: Tensor, index: Tensor, width: int) -> Tensor:
        """Weights [n, 2] float32 of the second and third corner of faces [n] at pixels [n]."""
        table = torch.cat([self.origin, self.second, self.third], 1)
        weights = torch.empty((len(face), 2), dtype=torch.float32, device=face.device)
        for faces, pixels, out in zip(face.split(_PART), index.split(_PART), weights.split(_PART)):
            row = table[faces]
            dx, dy = pixels % width - row[:, 0], pixels // width - row[:, 1]
            out[:, 0] = row[:, 2] * dx + row[:, 3] * dy
            out[:, 1] = row[:, 4] * dx + row[:, 5] * dy
        return weights


def _ordered(values: Tensor) -> Tensor:
    """Turn floating numbers into int32 that compare as their float32 do."""
    bits = values.float().view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unordered(bits: Tensor) -> Tensor:
    """The reverse of `_ordered`."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
