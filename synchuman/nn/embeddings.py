"""Sinusoidal embeddings of times and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LONGEST_PERIOD = 10_000.0


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Embed scalars as cosines, then sines, of geometrically falling frequencies (Vaswani et al. 2017, 3.5).

    Args:
        values: [n], any real dtype.
        width: Even number of channels.

    Returns:
        [n, width] float32, the first half cosines.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_embedding(coordinates: Tensor, width: int) -> Tensor:
    """Embed points axis by axis: sines, then cosines, of each coordinate, the axes one after another.

    Args:
        coordinates: [n, axes], any real dtype.
        width: Number of channels; those left over by an even split among the axes are zero.

    Returns:
        [n, width] float32.
    """
    axes = coordinates.shape[-1]
    half = width // axes // 2
    steps = torch.arange(half, dtype=torch.float32, device=coordinates.device)
    angles = coordinates.float()[..., None] * (1.0 / LONGEST_PERIOD ** (steps / half))
    embedded = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return nn.functional.pad(embedded, (0, width - embedded.shape[1]))


class TimestepEmbedder(nn.Module):
    """Sinusoid of a time, then two linear layers with a SiLU between them."""

    def __init__(self, width: int, sinusoid_width: int = 256) -> None:
        super().__init__()
        self.sinusoid_width = sinusoid_width
        self.mlp = nn.Sequential(nn.Linear(sinusoid_width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, times: Tensor) -> Tensor:
        """Embed times [n] (0 to 1000) as [n, width]."""
        return self.mlp(sinusoid(times, self.sinusoid_width).to(next(self.parameters()).dtype))
