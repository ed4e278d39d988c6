"""Smooth random fields for textures and wrinkles: one periodic noise volume, sampled anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SIDE = 32
CHANNELS = 4


@lru_cache(maxsize=4)
def _volume(device: str) -> Tensor:
    """[1, C, n+1, n+1, n+1] periodic band-limited noise, unit variance, one lattice cell a feature."""
    rng = np.random.default_rng(20240229)
    spectrum = np.fft.fftn(rng.normal(size=(CHANNELS, SIDE, SIDE, SIDE)), axes=(1, 2, 3))
    k = np.fft.fftfreq(SIDE) * SIDE
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    field = np.fft.ifftn(spectrum * np.exp(-((radius - 6.0) ** 2) / 18.0) * (radius > 0), axes=(1, 2, 3)).real
    field /= field.std(axis=(1, 2, 3), keepdims=True)
    return (
        torch.from_numpy(np.pad(field, ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap"))
        .float()[None]
        .to(device)
    )


def noise(points: Tensor, frequency: float | tuple[float, float, float], offset: float) -> Tensor:
    """Noise at [N, 3] points: [N, 4] independent fields of unit variance.

    Args:
        points: Positions in metres.
        frequency: Features per metre, along each axis or along all.
        offset: Any number; different ones give different fields.
    """
    scale = points.new_tensor(frequency) / 6.0
    shift = points.new_tensor([0.371, 0.713, 0.147]) * (offset * 37.0)
    coordinates = torch.remainder(points * scale + shift, 1.0) * 2 - 1
    sampled = torch.nn.functional.grid_sample(
        _volume(str(points.device)), coordinates[None, :, None, None], align_corners=True
    )
    return sampled[0, :, :, 0, 0].T
