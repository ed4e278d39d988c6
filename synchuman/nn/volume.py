"""Blocks for dense volumes."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of [batch, channels, x, y, z], computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1).float()
        normed = nn.functional.layer_norm(
            last, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.movedim(-1, 1).to(x.dtype)


def pixel_shuffle_3d(x: Tensor) -> Tensor:
    """Turn groups of eight channels into 2x2x2 voxels.

    Args:
        x: [batch, 8 c, x, y, z]; channel 8 c + 4 i + 2 j + k becomes the voxel at offset (i, j, k).

    Returns:
        [batch, c, 2 x, 2 y, 2 z].
    """
    batch, channels, nx, ny, nz = x.shape
    x = x.reshape(batch, channels // 8, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, channels // 8, 2 * nx, 2 * ny, 2 * nz)
