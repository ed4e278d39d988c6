"""Attention among the voxels of a window (Liu et al. 2021, section 3.2, on sparse volumes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from synchuman.nn.attention import FusedSelfAttention
from synchuman.nn.sparse_tensor import SparseTensor, Voxels, voxel_keys

SMALLEST_BUCKET = 16  # slots; smaller windows are padded to it


@dataclass(frozen=True)
class Windows:
    """Voxels by window, windows of similar size together so that each group is one dense attention.

    Attributes:
        rows: Per group, the voxels of its windows, [windows, slots]; unused slots name any voxel.
        masks: Per group, which slots are used, [windows, 1, 1, slots].
        places: [n] where each voxel is in the groups' slots, laid end to end.
    """

    rows: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    places: Tensor


def window_keys(voxels: Voxels, size: int, shift: int) -> Tensor:
    """Return a number [n] per voxel, equal within a sample's cube of `size` after the shift."""
    cubes = voxels.coords.clone()
    cubes[:, 1:] = (cubes[:, 1:] + shift) // size
    return voxel_keys(cubes)


def find_windows(voxels: Voxels, size: int, shift: int) -> Windows:
    """Return the windows of a size and shift in voxels, worked out on first use."""
    return voxels.cached(("windows", size, shift), lambda: _find_windows(voxels, size, shift))


def _find_windows(voxels: Voxels, size: int, shift: int) -> Windows:
    device = voxels.coords.device
    _, window, counts = torch.unique(
        window_keys(voxels, size, shift), return_inverse=True, return_counts=True
    )
    order = window.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(window)
    rows, masks, used = [], [], 0
    slots, smaller = SMALLEST_BUCKET, -1
    largest = int(counts.max()) if len(counts) else 0
    while smaller < largest:
        chosen = torch.nonzero((counts > smaller) & (counts <= slots))[:, 0]
        if len(chosen):
            slot = torch.arange(slots, device=device)
            mask = slot < counts[chosen, None]
            group = order[(starts[chosen, None] + slot).clamp_(max=len(order) - 1)]
            places[group[mask]] = used + torch.nonzero(mask.flatten())[:, 0]
            used += mask.numel()
            rows.append(group)
            masks.append(mask[:, None, None])
        smaller, slots = slots, slots * 2
    return Windows(tuple(rows), tuple(masks), places)


class WindowAttention(FusedSelfAttention):
    """Self attention among the voxels that share a window."""

    def forward(self, x: SparseTensor, size: int, shift: int = 0) -> SparseTensor:  # type: ignore[override]
        """Attend within cubes of `size` voxels, the grid moved by `shift`; [n, width] in and out."""
        if not len(x.voxels):
            return x
        windows = find_windows(x.voxels, size, shift)
        qkv = self.to_qkv(x.feats).unflatten(-1, (3, self.heads, -1))
        if self.normalise:
            qkv = torch.stack(self.normalised(qkv), dim=1)
        mixed = []
        for rows, mask in zip(windows.rows, windows.masks, strict=True):
            q, k, v = qkv[rows].permute(2, 0, 3, 1, 4)  # [windows, heads, slots, head width] each
            mixed.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        feats = torch.cat([group.flatten(0, 1) for group in mixed])[windows.places]
        return x.with_feats(self.to_out(feats))
