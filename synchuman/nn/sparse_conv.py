"""Submanifold convolution (Graham et al. 2018): gather, multiply, scatter over the neighbours that exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.sparse_tensor import AXIS_BITS, CHILDREN, SparseTensor, Voxels, child_offsets

OFFSETS = 27  # of a 3^3 kernel; offset k reads the voxel at (k // 9, k // 3 % 3, k % 3) - 1
CENTRE = 13

# Per axis: which taps of a 3-kernel at child o of a voxel fall on the voxel at o + j - 1; [o][j][tap].
_FOLD = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


@dataclass(frozen=True)
class Neighbours:
    """Which rows a 3^3 kernel reads and writes.

    Attributes:
        before: For each of the 13 offsets before the centre: rows read, rows written, both [pairs]. The 13
            offsets after the centre, in falling order, are the same pairs with the roles exchanged.
    """

    before: tuple[tuple[Tensor, Tensor], ...]

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield every offset but the centre with the rows it reads and the rows it writes."""
        for offset, (read, written) in enumerate(self.before):
            yield offset, read, written
            yield OFFSETS - 1 - offset, written, read


def find_neighbours(voxels: Voxels) -> Neighbours:
    """Return the pairs of neighbouring voxels, worked out on first use."""
    return voxels.cached("neighbours", lambda: _find_neighbours(voxels))


def _find_neighbours(voxels: Voxels) -> Neighbours:
    rows = neighbour_rows(voxels, CENTRE)
    offset, written = torch.nonzero(rows >= 0, as_tuple=True)
    read = rows[offset, written]
    counts = torch.bincount(offset, minlength=CENTRE).tolist()
    return Neighbours(tuple(zip(read.int().split(counts), written.int().split(counts), strict=True)))


def neighbour_rows(voxels: Voxels, offsets: int = OFFSETS) -> Tensor:
    """Return each voxel's neighbour's row at the first so many offsets, [offsets, n]; -1 if there is none."""
    if voxels.parent is not None:
        return _child_neighbour_rows(voxels.parent, offsets)
    device = voxels.coords.device
    ordered, rows = voxels.sorted_keys()
    dx, dy, dz = torch.cartesian_prod(*(torch.arange(-1, 2, device=device),) * 3)[:offsets].unbind(1)
    steps = ((dx << AXIS_BITS) + dy << AXIS_BITS) + dz
    # Looking up in rising order of keys is kinder to the cache than in the order of rows.
    found = torch.empty(offsets, len(voxels), dtype=torch.int64, device=device)
    found[:, rows] = voxels.find(ordered + steps[:, None])
    return found


def _child_neighbour_rows(parent: Voxels, offsets: int) -> Tensor:
    """A child's neighbour is a child of the parent's neighbour, so nothing needs to be looked up again."""
    device = parent.coords.device
    rows = neighbour_rows(parent)
    kernel = torch.cartesian_prod(*(torch.arange(-1, 2, device=device),) * 3)[:offsets]
    place = kernel[:, None] + child_offsets(device)  # [offsets, children, 3], -1 to 2
    step, child = place.div(2, rounding_mode="floor") + 1, place.remainder(2)
    which = (step[..., 0] * 3 + step[..., 1]) * 3 + step[..., 2]
    within = (child[..., 0] * 2 + child[..., 1]) * 2 + child[..., 2]
    found = rows[which]  # [offsets, children, n]
    found = torch.where(found >= 0, found * CHILDREN + within[..., None], -1)
    return found.transpose(1, 2).flatten(1)


class SparseConv3d(nn.Module):
    """Submanifold 3^3 convolution: the result lives at the voxels of the input.

    out[p] = bias + sum over offsets k of weight[:, k] in[p + k - 1], voxels that do not exist being zero.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=(OFFSETS * in_channels) ** -0.5)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve [n, in channels] to [n, out channels]."""
        taps = self.weight.flatten(1, 3).unbind(1)
        total = F.linear(x.feats, taps[CENTRE], self.bias).float()
        for offset, read, written in find_neighbours(x.voxels).pairs():
            part = F.linear(x.feats.index_select(0, read), taps[offset])
            total.index_add_(0, written, part.float())
        return x.with_feats(total.to(x.feats.dtype))

    def subdivided(self, x: SparseTensor) -> SparseTensor:
        """Convolve the subdivision of x, without building it.

        The eight children of a voxel have equal features, so the 27 taps at a child fall on 8 voxels of x and
        can be summed beforehand: 64 products with n rows instead of 27 with 8 n.

        Returns:
            [8 n, out channels] at `x.voxels.subdivided()`: `self(subdivide(x))` up to rounding.
        """
        fold = torch.tensor(_FOLD, device=self.weight.device)
        taps = torch.einsum("uax,vby,wcz,mxyzn->uvwabcmn", fold, fold, fold, self.weight.float())
        taps = taps.to(self.weight.dtype).flatten(3, 5).flatten(0, 2)  # [child, voxel read, out, in]
        children = [
            F.linear(x.feats, taps[child, CHILDREN - 1 - child], self.bias).float()
            for child in range(CHILDREN)
        ]
        uses = _voxels_read()
        for offset, read, written in find_neighbours(x.voxels).pairs():
            gathered = x.feats.index_select(0, read)
            for child, tap in uses[offset]:
                children[child].index_add_(0, written, F.linear(gathered, taps[child, tap]).float())
        feats = torch.stack(children, dim=1).flatten(0, 1).to(x.feats.dtype)
        return SparseTensor(feats, x.voxels.subdivided())


def _voxels_read() -> list[list[tuple[int, int]]]:
    """For every offset among coarse voxels: which child reads it with which of its eight summed taps."""
    uses: list[list[tuple[int, int]]] = [[] for _ in range(OFFSETS)]
    for child in range(CHILDREN):
        for tap in range(CHILDREN):
            step = [(child >> bit & 1) + (tap >> bit & 1) for bit in (2, 1, 0)]
            uses[(step[0] * 3 + step[1]) * 3 + step[2]].append((child, tap))
    return uses


class PointwiseSparseConv3d(nn.Module):
    """A 1^3 convolution as the published weights mean it.

    They are stored as [out, 1, 1, 1, in], but were trained with that memory read as an [in, out] matrix:
    neither the matrix that the shape suggests nor its transpose.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 1, 1, 1, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, in channels] to [n, out channels]."""
        out_channels, in_channels = self.weight.shape[0], self.weight.shape[-1]
        return torch.addmm(self.bias, x, self.weight.reshape(in_channels, out_channels))
