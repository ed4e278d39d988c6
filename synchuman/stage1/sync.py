"""Attention between image maps and structure tokens along the orthographic rays that join them.

A voxel is seen by each body view in one map pixel, and a pixel sees one line of voxels. So the attention has
four or a dozen keys per query: it is written as sums over shared indices, without gathering keys per query.
In index letters g = group, x y z = voxel, c = column, r = row (turned upwards, so r runs with z), v = view,
h = head, d = channel of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn import fused
from synchuman.nn.attention import Attention
from synchuman.nn.transformer import zero_linear
from synchuman.stage1.layout import COLOR, DOMAINS, NORMAL, split
from synchuman.stage1.multiview_transformer import GatedFeedForward
from synchuman.views import BACK, FRONT, LEFT, NUM_BODY_VIEWS, RIGHT

NORM_EPS = 1e-6
# Views whose column is x, and those whose column is y. Slices: lists of views would be copied to the device.
ALONG_X = slice(FRONT, NUM_BODY_VIEWS, BACK - FRONT)
ALONG_Y = slice(RIGHT, NUM_BODY_VIEWS, LEFT - RIGHT)


def attend_views(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let every voxel attend to the four pixels that show it.

    Args:
        query: [group, x, y, z, head, channel].
        key: [group, view, row, column, head, channel], body views, sides as the voxels; row 0 top.
        value: Like `key`.

    Returns:
        [group, x, y, z, head, channel].
    """
    query = query * query.shape[-1] ** -0.5
    key, value = key.flip(2), value.flip(2)
    scores = [
        torch.einsum("gxyzhd,gvzxhd->gxyzhv", query, key[:, ALONG_X]),
        torch.einsum("gxyzhd,gvzyhd->gxyzhv", query, key[:, ALONG_Y]),
    ]
    weights = torch.cat(scores, dim=-1).float().softmax(dim=-1).to(value.dtype)
    along_x, along_y = weights.chunk(2, dim=-1)
    seen = torch.einsum("gxyzhv,gvzxhd->gxyzhd", along_x, value[:, ALONG_X])
    return seen + torch.einsum("gxyzhv,gvzyhd->gxyzhd", along_y, value[:, ALONG_Y])


def attend_rays(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let every pixel of the body views attend to the line of voxels behind it.

    Args:
        query: [group, view, row, column, head, channel], body views, row 0 top.
        key: [group, x, y, z, head, channel], as many voxels per axis as rows and columns.
        value: Like `key`.

    Returns:
        [group, view, row, column, head, channel].
    """
    query = query.flip(2) * query.shape[-1] ** -0.5
    result = torch.empty_like(query)
    for views, ray in ((ALONG_X, "gcyrhd"), (ALONG_Y, "gycrhd")):
        scores = torch.einsum(f"gvrchd,{ray}->gvrchy", query[:, views], key)
        weights = scores.float().softmax(dim=-1).to(value.dtype)
        result[:, views] = torch.einsum(f"gvrchy,{ray}->gvrchd", weights, value)
    return result.flip(2)


class SyncToStructure(nn.Module):
    """2D to 3D: structure tokens read the normal domain's body views.

    Args:
        map_width: Channels of the image maps.
        structure_width: Width of the structure tokens.
        grid: Structure tokens per axis; maps of any size are pooled to it.
        heads: Attention heads.
        head_width: Width of a head.
        norm_groups: Groups of the group norm.
        kernel: Size of the convolution before pooling.
        mlp_ratio: Hidden width of the feed-forward layer.
    """

    def __init__(
        self,
        map_width: int,
        structure_width: int,
        grid: int,
        heads: int,
        head_width: int,
        norm_groups: int,
        kernel: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.map_in = nn.Linear(map_width, map_width)
        self.map_pool = nn.Sequential(
            nn.GroupNorm(norm_groups, map_width),
            nn.Conv2d(map_width, map_width, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(grid),
        )
        self.structure_in = nn.Linear(structure_width, structure_width)
        self.norm1 = nn.LayerNorm(structure_width, eps=NORM_EPS)
        self.attention = Attention(structure_width, map_width, heads, head_width)
        self.norm2 = nn.LayerNorm(structure_width, eps=NORM_EPS)
        self.ff = GatedFeedForward(structure_width, mlp_ratio)
        self.structure_out = zero_linear(structure_width, structure_width)

    def forward(self, maps: Tensor, structure: Tensor) -> Tensor:
        """Update structure tokens.

        Args:
            maps: [B, map width, h, w] image maps of all images, see `layout`.
            structure: [groups, grid^3, structure width].

        Returns:
            Like `structure`.
        """
        groups = structure.shape[0]
        body = split(maps.movedim(1, -1))[NORMAL, :, :NUM_BODY_VIEWS].flatten(0, 1)
        norm, *rest = cast(list[nn.Module], self.map_pool)
        pooled = fused.group_norm(self.map_in(body).movedim(-1, 1), cast(nn.GroupNorm, norm))
        for layer in rest:
            pooled = layer(pooled)
        pooled = pooled.movedim(1, -1)
        key, value = self.attention.project(pooled.unflatten(0, (groups, NUM_BODY_VIEWS)))
        x = self.structure_in(structure)
        query = self.attention.query(self.norm1(x)).unflatten(1, (self.grid,) * 3)
        x = x + self.attention.to_out(attend_views(query, key, value).flatten(4).flatten(1, 3))
        x = x + self.ff(self.norm2(x))
        return structure + self.structure_out(x)


class SyncToViews(nn.Module):
    """3D to 2D: body views of both domains read the structure; the face view stays as it is.

    Arguments as `SyncToStructure`; the voxels are pooled to the maps' size.
    """

    def __init__(
        self,
        map_width: int,
        structure_width: int,
        grid: int,
        heads: int,
        head_width: int,
        norm_groups: int,
        kernel: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.structure_in = nn.Linear(structure_width, structure_width)
        self.voxel_conv = nn.Sequential(
            nn.GroupNorm(norm_groups, structure_width),
            nn.Conv3d(structure_width, structure_width, kernel, padding=kernel // 2),
            nn.GELU(),
        )
        self.map_in = nn.Linear(map_width, map_width)
        self.attentions = nn.ModuleList(
            Attention(map_width, structure_width, heads, head_width) for _ in range(DOMAINS)
        )
        self.ffs = nn.ModuleList(GatedFeedForward(map_width, mlp_ratio) for _ in range(DOMAINS))
        self.map_outs = nn.ModuleList(zero_linear(map_width, map_width) for _ in range(DOMAINS))

    def forward(self, maps: Tensor, structure: Tensor) -> Tensor:
        """Update image maps.

        Args:
            maps: [B, map width, h, h] image maps of all images, see `layout`.
            structure: [groups, grid^3, structure width].

        Returns:
            Like `maps`.
        """
        volume = self.structure_in(structure).transpose(1, 2).unflatten(2, (self.grid,) * 3)
        norm, *rest = cast(list[nn.Module], self.voxel_conv)
        volume = fused.group_norm(volume, cast(nn.GroupNorm, norm))
        for layer in rest:
            volume = layer(volume)
        # The pooling crosses no channels, so its output can stay channel-last for the projections.
        voxels = F.adaptive_avg_pool3d(volume, maps.shape[-1]).movedim(1, -1)
        body = split(maps.movedim(1, -1))[:, :, :NUM_BODY_VIEWS]
        updates = torch.stack([self._read(domain, body[domain], voxels) for domain in (NORMAL, COLOR)])
        # One more view of zeros: the face.
        updates = F.pad(updates, (0, 0, 0, 0, 0, 0, 0, 1))
        return maps + updates.flatten(0, 2).movedim(-1, 1)

    def _read(self, domain: int, maps: Tensor, voxels: Tensor) -> Tensor:
        """Update of a domain for maps [groups, view, row, column, width], voxels [groups, x, y, z, width]."""
        x = self.map_in(maps)
        attention = cast(Attention, self.attentions[domain])
        query = attention.query(F.layer_norm(x, x.shape[-1:], eps=NORM_EPS))
        x = x + attention.to_out(attend_rays(query, *attention.project(voxels)).flatten(4))
        x = x + self.ffs[domain](F.layer_norm(x, x.shape[-1:], eps=NORM_EPS))
        return self.map_outs[domain](x)
