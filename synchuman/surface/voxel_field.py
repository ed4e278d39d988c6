"""A sparse field on the grid vertices that voxels touch, averaged from the mesh decoder's features."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from synchuman.surface.dual_marching_cubes import CORNERS

# Columns of the mesh decoder's features; every per-corner value holds corner 0 first.
SDF = slice(0, 8)
DEFORM = slice(8, 32)
WEIGHTS = slice(32, 53)
COLOR = slice(53, 101)
FEATURES = 101


@dataclass(frozen=True)
class Keys:
    """One integer per grid position (vertex or cube), in the order (x, y, z), with a margin of one around."""

    resolution: int

    @property
    def strides(self) -> tuple[int, int, int]:
        """The steps of a key along x, y and z."""
        size = self.resolution + 3
        return size * size, size, 1

    def encode(self, position: torch.Tensor) -> torch.Tensor:
        """Turn positions [..., 3] from -1 to resolution + 1 into int64 keys [...]."""
        sx, sy, sz = self.strides
        x, y, z = (position.to(torch.int64) + 1).unbind(-1)
        return x * sx + y * sy + z * sz

    def decode(self, keys: torch.Tensor) -> torch.Tensor:
        """Turn keys [...] back into int64 positions [..., 3]."""
        sx, sy, _ = self.strides
        return torch.stack([keys // sx, keys % sx // sy, keys % sy], dim=-1) - 1

    def step(self, offset: tuple[int, ...]) -> int:
        """Return what to add to a key to move by `offset` (dx, dy, dz)."""
        return sum(s * o for s, o in zip(self.strides, offset))


@dataclass(frozen=True)
class VoxelField:
    """A signed distance on the grid vertices that voxels touch; every other grid vertex is outside, at +1.

    Attributes:
        keys: How grid positions are numbered.
        voxels: [n] int64 keys of the voxels, ascending.
        rows: [n] int64, the row of `feats` each voxel has.
        feats: [n, 101] raw features of the mesh decoder.
        vertices: [m] int64 keys of the grid vertices, ascending.
        sdf: [m] float32, negative inside.
    """

    keys: Keys
    voxels: torch.Tensor
    rows: torch.Tensor
    feats: torch.Tensor
    vertices: torch.Tensor
    sdf: torch.Tensor


def find(keys: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Look `wanted` keys up in ascending `keys`; return indices (any if absent) and who was found."""
    if not len(keys):
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    index = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return index, keys[index] == wanted


def average_field(coords: torch.Tensor, feats: torch.Tensor, resolution: int) -> VoxelField:
    """Average the sdf of the voxels at the grid vertices they share; see `flexicubes.extract`."""
    check_voxels(coords, feats, resolution)
    if len(coords) and not bool((coords[:, 0] == coords[0, 0]).all()):
        raise ValueError("coords hold several samples: pass one of them, or call extract_batch.")
    keys = Keys(resolution)
    voxels, rows = torch.sort(keys.encode(coords[:, 1:]))
    if bool((voxels[1:] == voxels[:-1]).any()):
        raise ValueError("coords hold a voxel more than once: every voxel needs exactly one row of features.")
    vertices = voxels
    for stride in keys.strides:
        vertices = torch.unique(torch.cat([vertices, vertices + stride]))
    # A copy of the few columns needed here, so that the lookups do not stride over whole feature rows.
    corner_sdf = feats[:, SDF].float()[rows]
    total, count = torch.zeros_like(vertices, dtype=torch.float32), torch.zeros_like(vertices)
    for k, offset in enumerate(CORNERS):
        index, hit = find(voxels, vertices - keys.step(offset))
        total += torch.where(hit, corner_sdf[:, k][index] - 1.0 / resolution, 0.0)
        count += hit
    sdf = total / count
    if not bool(torch.isfinite(sdf).all()):
        raise ValueError("The decoder's sdf is not finite: run it in float32, or check its input latents.")
    return VoxelField(keys, voxels, rows, feats, vertices, sdf)


def surface_cubes(field: VoxelField) -> torch.Tensor:
    """Return the ascending keys of the cubes with corners of both signs, voxels or not."""
    keys = field.keys
    inside = field.vertices[field.sdf < 0]
    around = []
    for axis, stride in enumerate(keys.strides):
        others = [s for i, s in enumerate(keys.strides) if i != axis]
        for low_end in (0, -stride):
            # An edge whose other end is found has both inside; the four cubes around a cut edge are mixed.
            _, joined = find(inside, inside + (stride if low_end == 0 else -stride))
            edge = inside[~joined] + low_end
            around += [edge - i * others[0] - j * others[1] for i in range(2) for j in range(2)]
    cubes = torch.unique(torch.cat(around))
    position = keys.decode(cubes)
    return cubes[((position >= 0) & (position < keys.resolution)).all(1)]


def average_attributes(field: VoxelField, vertices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average raw deformation [u, 3] and colour [u, 6] over the voxels at each vertex; zeros if none do."""
    deform = torch.zeros(len(vertices), 3, device=vertices.device)
    color = torch.zeros(len(vertices), 6, device=vertices.device)
    count = torch.zeros(len(vertices), 1, device=vertices.device)
    for k, offset in enumerate(CORNERS):
        index, hit = find(field.voxels, vertices - field.keys.step(offset))
        rows, at = field.rows[index[hit]], hit.nonzero().squeeze(1)
        start = DEFORM.start + 3 * k
        deform.index_add_(0, at, field.feats[rows, start : start + 3].float())
        start = COLOR.start + 6 * k
        color.index_add_(0, at, field.feats[rows, start : start + 6].float())
        count += hit[:, None]
    count.clamp_(min=1)
    return deform / count, color / count


def check_voxels(coords: torch.Tensor, feats: torch.Tensor, resolution: int) -> None:
    """Raise ValueError for wrong shapes of voxels and features, or coordinates out of the grid."""
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        raise ValueError(f"coords must be [n, 4] integers (batch, x, y, z), got {tuple(coords.shape)}.")
    if feats.shape != (len(coords), FEATURES):
        raise ValueError(f"feats must be [{len(coords)}, {FEATURES}], got {tuple(feats.shape)}.")
    if len(coords) and not (coords[:, 1:].min() >= 0 and coords[:, 1:].max() < resolution):
        raise ValueError(f"coords reach out of the grid: x, y and z must lie in [0, {resolution}).")
