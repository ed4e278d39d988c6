"""The encoder half of the structured-latent autoencoder: only training needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.embeddings import position_embedding
from synchuman.nn.sparse_attention import WindowAttention
from synchuman.nn.sparse_conv import SparseConv3d
from synchuman.nn.sparse_tensor import CHILDREN, SparseTensor, Voxels
from synchuman.stage2.config import SlatNormalisation
from synchuman.training.surface_data import SurfacePeople

SDF_SCALE = 63.5  # stored sdf is cells times this; clamped to two cells
UNIT_SCALE = 127.0  # stored normals and offsets are times this
INPUTS = 27 + CHILDREN * 8
MEASURED_PEOPLE = 128  # whose latents give the normalisation
CHUNK = 8


def voxel_inputs(targets: Mapping[str, Tensor]) -> Tensor:
    """Return what the encoder sees of voxels: the stored targets [n, ...] as [n, INPUTS] in about [-1, 1]."""
    valid = targets["cell_valid"].float()[..., None]
    cells = torch.cat(
        [
            targets["cell_normal"].float() / UNIT_SCALE,
            targets["cell_offset"].float()[..., None] / UNIT_SCALE,
            targets["cell_color"].float() / 127.5 - 1,
            torch.ones_like(valid),
        ],
        dim=-1,
    )
    sdf = targets["sdf"].float() / (2 * SDF_SCALE)
    return torch.cat([sdf, (cells * valid).flatten(1)], dim=1)


class EncoderBlock(nn.Module):
    """A residual pair of submanifold convolutions, then window attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.conv1 = SparseConv3d(width, width)
        self.conv2 = SparseConv3d(width, width)
        self.attention = WindowAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Transform [n, width]."""
        h = self.conv1(x.with_feats(F.silu(self.norm1(x.feats))))
        h = self.conv2(h.with_feats(F.silu(self.norm2(h.feats))))
        feats = x.feats + h.feats
        attended = self.attention(x.with_feats(self.norm3(feats)), self.window, self.shift)
        feats = feats + attended.feats
        return x.with_feats(feats + self.mlp(self.norm4(feats)))


class SlatEncoder(nn.Module):
    """Surface in every voxel to a Gaussian over structured latents.

    Args:
        latent: Latent channels.
        width: Channels inside; must divide by `heads`.
        heads: Attention heads.
        blocks: Number of blocks.
        window: Voxels per axis of the attention's windows; every other block shifts by half.
    """

    def __init__(
        self, latent: int = 8, width: int = 96, heads: int = 3, blocks: int = 2, window: int = 8
    ) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Linear(INPUTS, width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, window, window // 2 * (index % 2)) for index in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 2 * latent)

    def forward(self, inputs: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Map `voxel_inputs` [n, INPUTS] to mean and log variance [n, latent] float32."""
        feats = self.stem(inputs) + position_embedding(voxels.coords[:, 1:], self.width)
        h = SparseTensor(feats, voxels)
        for block in self.blocks:
            h = cast(EncoderBlock, block)(h)
        mean, log_variance = self.out(self.norm(h.feats)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    @torch.no_grad()
    def encode(self, targets: Mapping[str, Tensor], voxels: Voxels) -> Tensor:
        """Return the mean latents [n, latent] in full precision, whatever autocast is on."""
        with torch.autocast(voxels.coords.device.type, enabled=False):
            mean, _ = self(voxel_inputs(targets), voxels)
        return mean


@torch.no_grad()
def measure_normalisation(encoder: SlatEncoder, people: SurfacePeople) -> SlatNormalisation:
    """Return mean and spread per channel of the latents of the first people's occupied voxels."""
    device = next(encoder.parameters()).device
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for chosen in torch.arange(min(len(people), MEASURED_PEOPLE)).split(CHUNK):
        batch = {key: value.to(device) for key, value in people.take(chosen).items()}
        latents = encoder.encode(batch, Voxels.of(batch["coords"], len(chosen))).double().cpu()
        count, total, square = count + len(latents), total + latents.sum(0), square + (latents**2).sum(0)
    mean = total / count
    spread = (square / count - mean**2).clamp(min=1e-12).sqrt()
    return SlatNormalisation(tuple(mean.tolist()), tuple(spread.tolist()))
