"""The encoder half of the structure autoencoder: only training needs it, inference starts from latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3D convolutions with group norm and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its residual; [B, C, n, n, n] in and out."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class StructureEncoder(nn.Module):
    """Occupancy [B, 1, n, n, n] in {0, 1} to a Gaussian over latents [B, latent, n/4, n/4, n/4].

    Args:
        channels: Widths at n/2 and n/4.
        latent: Latent channels.
    """

    def __init__(self, channels: Sequence[int] = (32, 64), latent: int = 8) -> None:
        super().__init__()
        first, second = channels
        self.stem = nn.Conv3d(1, first, 4, stride=2, padding=1)
        self.block1 = ResidualBlock(first)
        self.down = nn.Conv3d(first, second, 4, stride=2, padding=1)
        self.block2 = ResidualBlock(second)
        self.norm = nn.GroupNorm(8, second)
        self.out = nn.Conv3d(second, 2 * latent, 3, padding=1)

    def forward(self, occupancy: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents."""
        h = self.block2(self.down(self.block1(self.stem(occupancy * 2 - 1))))
        mean, log_variance = self.out(F.silu(self.norm(h))).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)


def sample_latent(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the Gaussian (reparameterised, Kingma and Welling 2014, section 2.4)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=torch.float32)
    return mean + torch.exp(0.5 * log_variance) * noise
