"""The flow over structured latents: residual blocks around a transformer at half the resolution."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from synchuman.nn.attention import KeyValue
from synchuman.nn.embeddings import TimestepEmbedder, position_embedding
from synchuman.nn.sparse_conv import SparseConv3d
from synchuman.nn.sparse_tensor import SparseTensor, Voxels, downsample, upsample
from synchuman.nn.transformer import NORM_EPS, ModulatedBlock
from synchuman.stage2.config import SlatFlowConfig


class SparseResBlock(nn.Module):
    """Residual block of two submanifold convolutions, the second's input scaled and shifted by the time.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        time_width: Width of the embedded time.
    """

    def __init__(self, in_channels: int, out_channels: int, time_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_channels, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(out_channels, eps=NORM_EPS, elementwise_affine=False)
        self.conv1 = SparseConv3d(in_channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * out_channels))
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Linear(in_channels, out_channels)

    def forward(self, x: SparseTensor, time: Tensor) -> SparseTensor:
        """Transform [n, in channels] to [n, out channels]; time is [1 or batch, time width]."""
        scale, shift = x.per_voxel(self.emb_layers(time)).chunk(2, dim=-1)
        h = self.conv1(x.with_feats(F.silu(self.norm1(x.feats))))
        h = self.conv2(h.with_feats(F.silu(self.norm2(h.feats) * (1 + scale) + shift)))
        return h.with_feats(h.feats + self.skip_connection(x.feats))


class SlatFlow(nn.Module):
    """Velocity of noisy structured latents at given voxels, conditioned on image tokens."""

    def __init__(self, config: SlatFlowConfig) -> None:
        super().__init__()
        self.config = config
        widths, width = config.io_widths, config.width
        self.t_embedder = TimestepEmbedder(width)
        self.input_layer = nn.Linear(config.channels, widths[0])
        way_in: list[SparseResBlock] = []
        way_out: list[SparseResBlock] = []
        for fine, coarse in zip(widths, (*widths[1:], width), strict=True):
            outs = [fine] * (config.io_blocks - 1) + [coarse]
            way_in += [SparseResBlock(fine, out, width) for out in outs]
            # On the way out, each block also gets what the block that it mirrors gave on the way in.
            way_out = [SparseResBlock(2 * out, fine, width) for out in reversed(outs)] + way_out
        self.input_blocks = nn.ModuleList(way_in)
        self.out_blocks = nn.ModuleList(way_out)
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, config.condition_width, config.heads, config.mlp_ratio)
            for _ in range(config.blocks)
        )
        self.out_layer = nn.Linear(widths[0], config.channels)

    @property
    def torso_dtype(self) -> torch.dtype:
        """Precision of all but the first and last layer and the time's embedding."""
        return cast(SparseResBlock, self.input_blocks[0]).conv1.weight.dtype

    def torso(self) -> tuple[nn.Module, ...]:
        """Return the parts whose precision changes, as the published model runs them on a GPU."""
        return self.input_blocks, self.blocks, self.out_blocks

    def project(self, condition: Tensor) -> tuple[KeyValue, ...]:
        """Project condition tokens [batch, tokens, condition width] once for all steps."""
        condition = condition.to(self.torso_dtype)
        return tuple(cast(ModulatedBlock, block).project(condition) for block in self.blocks)

    def forward(self, x: SparseTensor, times: Tensor, condition: tuple[KeyValue, ...]) -> SparseTensor:
        """Return the velocity.

        Args:
            x: [n, channels] noisy structured latents.
            times: [1 or batch] in 0 to 1000.
            condition: What `project` returned, for as many samples as x has.

        Returns:
            [n, channels] float32 at the voxels of x.
        """
        torso = self.torso_dtype
        time = self.t_embedder(times).to(torso)
        h = x.with_feats(self.input_layer(x.feats.to(self.input_layer.weight.dtype)).to(torso))
        ways: list[tuple[SparseTensor, Voxels | None]] = []
        for index, block in enumerate(self.input_blocks):
            finer = h.voxels if self._changes_level(index) else None
            h = block(downsample(h) if finer is not None else h, time)
            ways.append((h, finer))
        h = h.with_feats(self._transform(h, time, condition))
        for block, (skip, finer) in zip(self.out_blocks, reversed(ways), strict=True):
            joined = h.with_feats(torch.cat([h.feats, skip.feats], dim=1))
            h = block(joined if finer is None else upsample(joined, finer), time)
        last = self.out_layer.weight.dtype
        feats = F.layer_norm(h.feats.to(last), h.feats.shape[-1:])
        return x.with_feats(self.out_layer(feats).float())

    def _changes_level(self, index: int) -> bool:
        return (index + 1) % self.config.io_blocks == 0

    def _transform(self, h: SparseTensor, time: Tensor, condition: tuple[KeyValue, ...]) -> Tensor:
        """Run the transformer on lists of tokens, padded to the longest sample's."""
        # What depends on the voxels alone is worked out once, not at every step.
        embedded = h.voxels.cached(
            ("positions", self.config.width),
            lambda: position_embedding(h.voxels.coords[:, 1:], self.config.width),
        )
        sizes = h.voxels.sizes
        tokens = pad_sequence(
            list(h.with_feats(h.feats + embedded.to(h.feats.dtype)).samples()), batch_first=True
        )
        mask = h.voxels.cached("filled", lambda: _filled(h.voxels))
        for block, context in zip(self.blocks, condition, strict=True):
            tokens = block(tokens, time, context, mask)
        return torch.cat([sample[:size] for sample, size in zip(tokens, sizes, strict=True)])


def _filled(voxels: Voxels) -> Tensor | None:
    """Which places of padded lists of tokens [batch, longest] are filled; None when all are."""
    if min(voxels.sizes) == max(voxels.sizes):
        return None
    length = torch.tensor(voxels.sizes, device=voxels.coords.device)
    return torch.arange(max(voxels.sizes), device=length.device) < length[:, None]
