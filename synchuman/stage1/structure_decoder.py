"""The structure decoder: from the structure latent to occupancy logits on a finer grid."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.volume import ChannelLayerNorm, pixel_shuffle_3d
from synchuman.stage1.config import StructureDecoderConfig


class ResidualBlock3d(nn.Module):
    """Norm, SiLU, convolution, twice, and the input added; [batch, channels, x, y, z] in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = ChannelLayerNorm(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Upsample3d(nn.Module):
    """Convolution and pixel shuffle to twice the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle_3d(self.conv(x))


class StructureDecoder(nn.Module):
    """Decode [batch, latent channels, n, n, n] to logits [batch, out channels, m, m, m]; above 0 is occupied.

    m is n doubled once per level after the first. Input and result are cast to and from the weights' dtype.
    """

    def __init__(self, config: StructureDecoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.input_layer = nn.Conv3d(config.latent_channels, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(
            *(ResidualBlock3d(channels[0]) for _ in range(config.res_blocks_middle))
        )
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            self.blocks.extend(ResidualBlock3d(width) for _ in range(config.res_blocks))
            if level + 1 < len(channels):
                self.blocks.append(Upsample3d(width, channels[level + 1]))
        self.out_layer = nn.Sequential(
            ChannelLayerNorm(channels[-1]),
            nn.SiLU(),
            nn.Conv3d(channels[-1], config.out_channels, 3, padding=1),
        )

    def forward(self, latent: Tensor) -> Tensor:
        x = self.middle_block(self.input_layer(latent.to(self.input_layer.weight.dtype)))
        for block in self.blocks:
            x = block(x)
        return self.out_layer(x).to(latent.dtype)
