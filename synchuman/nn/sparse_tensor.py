"""Sparse volumes: features at the occupied voxels of a grid, and how finer and coarser grids relate.

Memory follows the number of voxels: nothing here ever has the size of the grid. What only depends on the
voxels (sizes, neighbours, windows, coarser grids) is worked out once, on first use, and kept with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Cached = TypeVar("Cached")

# A voxel's key packs (sample, x, y, z), each plus one, into so many bits per axis: a neighbour's key is the
# voxel's plus a constant, and never that of another voxel across the border.
AXIS_BITS = 15
MAX_COORDINATE = (1 << AXIS_BITS) - 3
CHILDREN = 8  # of a subdivided voxel


def voxel_keys(coords: Tensor) -> Tensor:
    """Return int64 keys [n] that sort as the rows (sample, x, y, z) [n, 4] do."""
    sample, x, y, z = (coords.long() + 1).unbind(1)
    return (((sample << AXIS_BITS | x) << AXIS_BITS | y) << AXIS_BITS) | z


def child_offsets(device: torch.device | None = None) -> Tensor:
    """Return the [8, 3] offsets of a subdivided voxel's children, the last axis fastest."""
    return torch.cartesian_prod(*(torch.arange(2, device=device),) * 3)


@dataclass(eq=False)
class Voxels:
    """The occupied voxels of a batch of grids; make one with `Voxels.of`.

    Attributes:
        coords: [n, 4] int64 rows (sample, x, y, z); rows of a sample are consecutive, else in any order.
        sizes: Voxels of every sample.
        parent: The voxels that were subdivided to get these, children of a voxel consecutive; else None.
    """

    coords: Tensor
    sizes: tuple[int, ...]
    parent: Voxels | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, coords: Tensor, batch: int | None = None) -> Voxels:
        """Check coordinates and wrap them.

        Args:
            coords: [n, 4] whole numbers (sample, x, y, z).
            batch: Number of samples; default: one more than the last sample's index.

        Raises:
            ValueError: Wrong shape or type, a coordinate out of range, samples not in order, a voxel twice.
        """
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ValueError(
                f"Voxels are integers [n, 4] (sample, x, y, z); got {coords.dtype} {list(coords.shape)}."
            )
        coords = coords.long().contiguous()
        samples = coords[:, 0]
        if len(coords):
            low, high = int(coords.min()), int(coords.max())
            if low < 0 or high > MAX_COORDINATE:
                raise ValueError(f"Voxel coordinates must lie in [0, {MAX_COORDINATE}]; got {low} to {high}.")
            if bool((samples[1:] < samples[:-1]).any()):
                raise ValueError(
                    "Voxels of a sample must be consecutive, samples in rising order: sort them first."
                )
            if len(coords) > 1 and bool((voxel_keys(coords).sort().values.diff() == 0).any()):
                raise ValueError("A voxel is given twice: pass unique coordinates.")
        count = 0 if not len(coords) else int(samples[-1]) + 1
        if batch is not None and batch < count:
            raise ValueError(f"A voxel belongs to sample {count - 1}, but there are only {batch} samples.")
        return cls(coords, _sizes(samples, max(count, batch or 0)))

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.sizes)

    def cached(self, key: Any, make: Callable[[], Cached]) -> Cached:
        """Return what `make` gave the first time it was asked for under this key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def to(self, device: torch.device | str) -> Voxels:
        """Return these voxels on a device."""
        if self.coords.device == torch.device(device):
            return self
        parent = None if self.parent is None else self.parent.to(device)
        return Voxels(self.coords.to(device), self.sizes, parent)

    def sorted_keys(self) -> tuple[Tensor, Tensor]:
        """Return the keys in rising order, and for each the row of its voxel; both [n] int64."""
        return self.cached("keys", self._sorted_keys)

    def _sorted_keys(self) -> tuple[Tensor, Tensor]:
        keys, rows = voxel_keys(self.coords).sort()
        return keys, rows

    def find(self, keys: Tensor) -> Tensor:
        """Return the row of the voxel with each key [...] int64, -1 where there is none."""
        if not len(self):
            return torch.full_like(keys, -1)
        ordered, rows = self.sorted_keys()
        place = torch.searchsorted(ordered, keys).clamp_(max=len(self) - 1)
        return torch.where(ordered[place] == keys, rows[place], -1)

    def coarser(self) -> tuple[Voxels, Tensor]:
        """Return the voxels of half the resolution, sorted, and each voxel's row among them [n]."""
        return self.cached("coarser", self._coarser)

    def _coarser(self) -> tuple[Voxels, Tensor]:
        halved = self.coords.clone()
        halved[:, 1:] //= 2
        keys, rows = torch.unique(voxel_keys(halved), return_inverse=True)
        coords = torch.empty(len(keys), 4, dtype=torch.int64, device=keys.device)
        coords[rows] = halved
        return Voxels(coords, _sizes(coords[:, 0], self.batch)), rows

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return which voxels each of `coarser()` holds, [m, 8], n for none, and how many, [m]."""
        return self.cached("gathered", self._gathered)

    def _gathered(self) -> tuple[Tensor, Tensor]:
        coarse, rows = self.coarser()
        x, y, z = (self.coords[:, 1:] % 2).unbind(1)
        table = rows.new_full((len(coarse), CHILDREN), len(self))
        table[rows, (x * 2 + y) * 2 + z] = torch.arange(len(self), device=rows.device)
        return table, (table < len(self)).sum(1)

    def subdivided(self) -> Voxels:
        """Return the voxels of double the resolution: row 8 i + j is child j (`child_offsets`) of voxel i."""
        # Not kept here: it keeps its parent, and a cycle would hold memory until the garbage collector runs.
        doubled = self.coords.clone()
        doubled[:, 1:] *= 2
        offsets = F.pad(child_offsets(self.coords.device), (1, 0))
        coords = (doubled[:, None] + offsets).flatten(0, 1)
        return Voxels(coords, tuple(CHILDREN * size for size in self.sizes), self)


@dataclass(eq=False)
class SparseTensor:
    """Features [n, channels] at voxels [n]."""

    feats: Tensor
    voxels: Voxels

    def __post_init__(self) -> None:
        if len(self.feats) != len(self.voxels):
            raise ValueError(
                f"{len(self.feats)} rows of features for {len(self.voxels)} voxels: give one per voxel."
            )

    def with_feats(self, feats: Tensor) -> SparseTensor:
        """Return other features at the same voxels."""
        return SparseTensor(feats, self.voxels)

    def samples(self) -> tuple[Tensor, ...]:
        """Return the features of every sample, [size, channels] each."""
        return self.feats.split(self.voxels.sizes)

    def per_voxel(self, values: Tensor) -> Tensor:
        """Spread values of samples [1 or batch, ...] over their voxels, to broadcast with [n, ...]."""
        if len(values) == 1:
            return values
        # Not an index of the samples: its gradient would be summed voxel by voxel.
        spread = zip(values.unsqueeze(1), self.voxels.sizes, strict=True)
        return torch.cat([row.expand(size, *row.shape[1:]) for row, size in spread])


def downsample(x: SparseTensor) -> SparseTensor:
    """Halve the resolution: sum of the voxels' features over (count + 1), as the published weights expect."""
    voxels, _ = x.voxels.coarser()
    table, count = x.voxels.gathered()
    # Gathered, not scattered: the order of the sums is the same every time, and nothing waits for the device.
    padded = F.pad(x.feats.float(), (0, 0, 0, 1))
    total = F.embedding(table, padded).sum(1)
    return SparseTensor((total / (count + 1)[:, None]).to(x.feats.dtype), voxels)


def upsample(x: SparseTensor, finer: Voxels) -> SparseTensor:
    """Copy the features of `finer.coarser()` back to the voxels they came from.

    Raises:
        ValueError: `x` is not at the voxels that `finer.coarser()` gives.
    """
    voxels, rows = finer.coarser()
    if voxels is not x.voxels:
        raise ValueError(
            "The features do not belong to the coarser grid of these voxels: downsample them first."
        )
    return SparseTensor(x.feats[rows], finer)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Double the resolution: every voxel becomes eight with its features."""
    return SparseTensor(x.feats.repeat_interleave(CHILDREN, dim=0), x.voxels.subdivided())


def _sizes(samples: Tensor, batch: int) -> tuple[int, ...]:
    return tuple(torch.bincount(samples, minlength=batch).tolist()) if batch else ()
