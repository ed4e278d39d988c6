"""The part that both decoders share: a windowed transformer whose every block looks at the views."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from synchuman.nn.embeddings import position_embedding
from synchuman.nn.sparse_attention import WindowAttention
from synchuman.nn.sparse_tensor import SparseTensor
from synchuman.nn.transformer import NORM_EPS
from synchuman.stage2.config import DecoderTrunkConfig, ViewTokensConfig
from synchuman.stage2.view_tokens import MultiviewLayer, SeenTokens, ViewTokens, find_seen


class DecoderBlock(nn.Module):
    """Window attention, multiview layer, feed-forward layer; each after a layer norm, each added."""

    def __init__(self, config: DecoderTrunkConfig, shift: int) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.window = config.window
        self.shift = shift
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = WindowAttention(width, config.heads, normalise=False)
        self.mv_condition = MultiviewLayer(width, config.view_width, int(width * config.view_hidden_ratio))
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )

    def forward(self, x: SparseTensor, seen: SeenTokens) -> SparseTensor:
        """Transform [n, width]."""
        attended = self.attn(x.with_feats(self.norm(x.feats)), self.window, self.shift)
        h = x.feats + attended.feats
        h = h + self.mv_condition(self.norm(h), seen)
        return x.with_feats(h + self.mlp(self.norm(h)))


class DecoderTrunk(nn.Module):
    """Structured latents and view tokens to features of the same voxels."""

    def __init__(self, config: DecoderTrunkConfig, views: ViewTokensConfig) -> None:
        super().__init__()
        self.trunk_config = config
        self.input_layer = nn.Linear(config.channels, config.width)
        self.input_layer_color = nn.Linear(views.channels, config.view_width)
        self.input_layer_normal = nn.Linear(views.channels, config.view_width)
        shift = config.window // 2
        self.blocks = nn.ModuleList(
            DecoderBlock(config, shift * (index % 2)) for index in range(config.blocks)
        )

    @property
    def torso_dtype(self) -> torch.dtype:
        """Precision of all but the first layers and the last."""
        return cast(DecoderBlock, self.blocks[0]).attn.to_qkv.weight.dtype

    def torso(self) -> tuple[nn.Module, ...]:
        """Return the parts whose precision changes, as the published model runs them on a GPU."""
        return (self.blocks,)

    def run_trunk(self, slat: SparseTensor, views: ViewTokens) -> SparseTensor:
        """Transform structured latents [n, channels] (not normalised) to [n, width].

        Raises:
            ValueError: There are not as many samples of views as of latents.
        """
        seen = self._project(find_seen(views, slat.voxels, self.trunk_config.resolution), self.torso_dtype)
        feats = self.input_layer(slat.feats.to(self.input_layer.weight.dtype))
        feats = feats + position_embedding(slat.voxels.coords[:, 1:], self.trunk_config.width)
        h = slat.with_feats(feats.to(self.torso_dtype))
        for block in self.blocks:
            h = block(h, seen)
        return h

    def _project(self, seen: SeenTokens, dtype: torch.dtype) -> SeenTokens:
        layers = (self.input_layer_normal, self.input_layer_color)
        projected = tuple(torch.stack([_apply(layers[d], t[:, d]) for d in range(2)], 1) for t in seen.tokens)
        return SeenTokens(tuple(tokens.to(dtype) for tokens in projected), seen.rows)


def _apply(layer: nn.Linear, tokens: Tensor) -> Tensor:
    return layer(tokens.to(layer.weight.dtype))
