"""The 3D branch: a diffusion transformer over the tokens of the structure latent, run in slices."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.attention import KeyValue
from synchuman.nn.embeddings import TimestepEmbedder, position_embedding
from synchuman.nn.transformer import ModulatedBlock, zero_linear
from synchuman.stage1.config import StructureFlowConfig


class StructureFlow(nn.Module):
    """Flow transformer over a dense latent volume; token (x, y, z) has index (x * grid + y) * grid + z."""

    pos_emb: Tensor

    def __init__(self, config: StructureFlowConfig) -> None:
        super().__init__()
        self.config = config
        patch_channels = config.channels * config.patch**3
        axis = torch.arange(config.grid)
        coordinates = torch.cartesian_prod(axis, axis, axis)
        self.register_buffer("pos_emb", position_embedding(coordinates, config.width))
        self.t_embedder = TimestepEmbedder(config.width)
        self.input_layer = nn.Linear(patch_channels, config.width)
        self.blocks = nn.ModuleList(
            ModulatedBlock(config.width, config.condition_width, config.heads, config.mlp_ratio)
            for _ in range(config.blocks)
        )
        self.out_layer = zero_linear(config.width, patch_channels)

    def project(self, condition: Tensor) -> tuple[KeyValue, ...]:
        """Project condition tokens [groups, tokens, condition width] for every block."""
        return tuple(cast(ModulatedBlock, block).project(condition) for block in self.blocks)

    def embed(self, latent: Tensor) -> Tensor:
        """Cut a latent [groups, channels, n, n, n] into tokens [groups, grid^3, width]."""
        grid, patch = self.config.grid, self.config.patch
        x = latent.reshape(latent.shape[0], -1, grid, patch, grid, patch, grid, patch)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        return self.input_layer(x) + self.pos_emb

    def run(
        self, tokens: Tensor, time: Tensor, condition: tuple[KeyValue, ...], start: int, stop: int | None
    ) -> Tensor:
        """Run blocks start to stop; tokens [groups, grid^3, width], time [1 or groups, width]."""
        for block, projected in zip(self.blocks[start:stop], condition[start:stop], strict=True):
            tokens = block(tokens, time, projected)
        return tokens

    def unembed(self, tokens: Tensor) -> Tensor:
        """Turn tokens into a velocity [groups, channels, n, n, n]."""
        grid, patch, channels = self.config.grid, self.config.patch, self.config.channels
        x = self.out_layer(F.layer_norm(tokens, tokens.shape[-1:]))
        x = x.reshape(-1, grid, grid, grid, channels, patch, patch, patch)
        side = grid * patch
        return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, channels, side, side, side)
