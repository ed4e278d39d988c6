"""The mesh decoder: structured latents to the features that FlexiCubes needs, on a finer grid."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.sparse_conv import PointwiseSparseConv3d, SparseConv3d
from synchuman.nn.sparse_norm import SparseGroupNorm
from synchuman.nn.sparse_tensor import CHILDREN, SparseTensor
from synchuman.stage2.config import MeshDecoderConfig, ViewTokensConfig
from synchuman.stage2.decoder_trunk import DecoderTrunk
from synchuman.stage2.view_tokens import ViewTokens

# Columns of the features of a voxel.
SDF = slice(0, 8)  # signed distance at each corner
DEFORM = slice(8, 32)  # displacement of each corner, 8 x 3
WEIGHTS = slice(32, 53)  # of FlexiCubes: 12 beta, 8 alpha, 1 gamma
COLOR = slice(53, 101)  # of each corner, 8 x (rgb, normal)
FEATURES = 101


class SubdivideBlock(nn.Module):
    """Residual block that doubles the resolution.

    Features of a voxel's eight children start equal, so whatever can be done once per voxel is: the norm, the
    skip connection and the sums inside the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(groups, in_channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3d(in_channels, out_channels),
            SparseGroupNorm(groups, out_channels),
            nn.SiLU(),
            SparseConv3d(out_channels, out_channels),
        )
        self.skip_connection = PointwiseSparseConv3d(in_channels, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Transform [n, in channels] to [8 n, out channels]."""
        first, norm, silu, second = self.out_layers
        first = cast(SparseConv3d, first)
        h = first.subdivided(x.with_feats(F.silu(self.act_layers[0](x).feats)))
        h = norm(h)
        h = second(h.with_feats(silu(h.feats)))
        skip = self.skip_connection(x.feats)
        return h.with_feats((h.feats.unflatten(0, (-1, CHILDREN)) + skip[:, None]).flatten(0, 1))


class MeshDecoder(DecoderTrunk):
    """Structured latents and view tokens to FlexiCubes features."""

    def __init__(self, config: MeshDecoderConfig, views: ViewTokensConfig) -> None:
        super().__init__(config.trunk, views)
        self.config = config
        widths = (config.trunk.width, *config.widths)
        self.upsample = nn.ModuleList(
            SubdivideBlock(coarse, fine, config.norm_groups) for coarse, fine in pairwise(widths)
        )
        self.out_layer = nn.Linear(widths[-1], FEATURES)

    def torso(self) -> tuple[nn.Module, ...]:
        """Return the parts whose precision changes; sums over voxels in norms stay in float32."""
        return (*super().torso(), self.upsample)

    def forward(self, slat: SparseTensor, views: ViewTokens) -> SparseTensor:
        """Decode.

        Args:
            slat: [n, channels] structured latents, not normalised.
            views: Tokens of the four body views, one sample per sample of `slat`.

        Returns:
            [8^subdivisions n, 101] float32 at resolution `config.resolution`; columns SDF, DEFORM, WEIGHTS,
            COLOR, all raw: neither bias nor activation is applied.
        """
        h = self.run_trunk(slat, views)
        for block in self.upsample:
            h = block(h)
        return h.with_feats(self._finish(h.feats))

    def _finish(self, feats: Tensor) -> Tensor:
        return self.out_layer(feats.to(self.out_layer.weight.dtype)).to(torch.float32)
