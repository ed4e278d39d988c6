"""The gaussian decoder: structured latents to coloured gaussians around the surface."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage2.config import GaussianDecoderConfig, ViewTokensConfig
from synchuman.stage2.decoder_trunk import DecoderTrunk
from synchuman.stage2.view_tokens import ViewTokens

SH_DC = 0.28209479177387814  # spherical harmonic of degree 0
# Values per gaussian, in the order of the output's columns; a field's gaussians are consecutive.
FIELDS = {"offset": 3, "color": 3, "scale": 3, "rotation": 4, "opacity": 1}


@dataclass(frozen=True)
class Gaussians:
    """Coloured gaussians in the unit cube.

    Attributes:
        means: [n, 3] centres, world coordinates in about [-0.5, 0.5].
        scales: [n, 3] standard deviations along the own axes, of the cube's side.
        rotations: [n, 4] unit quaternions, w first.
        opacities: [n, 1] in [0, 1].
        sh_dc: [n, 3] coefficients of degree 0; see `colors`.
        sizes: Gaussians of every sample, samples consecutive.
    """

    means: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    sh_dc: Tensor
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def colors(self) -> Tensor:
        """Colours [n, 3] in [0, 1]."""
        return (0.5 + SH_DC * self.sh_dc).clamp(0, 1)

    def split(self) -> tuple[Gaussians, ...]:
        """Return the gaussians of every sample."""
        names = ("means", "scales", "rotations", "opacities", "sh_dc")
        parts = {name: getattr(self, name).split(self.sizes) for name in names}
        return tuple(
            Gaussians(**{name: parts[name][sample] for name in names}, sizes=(size,))
            for sample, size in enumerate(self.sizes)
        )


class GaussianDecoder(DecoderTrunk):
    """Structured latents and view tokens to gaussians, a fixed number per voxel."""

    offset_perturbation: Tensor

    def __init__(self, config: GaussianDecoderConfig, views: ViewTokensConfig) -> None:
        super().__init__(config.trunk, views)
        self.config = config
        self.out_layer = nn.Linear(config.trunk.width, config.per_voxel * sum(FIELDS.values()))
        # Spread the centres within a voxel where the network says nothing.
        spread = (2 * hammersley(config.per_voxel) - 1) / config.reach
        self.register_buffer("offset_perturbation", torch.atanh(spread))

    def forward(self, slat: SparseTensor, views: ViewTokens) -> Gaussians:
        """Decode structured latents [n, channels], not normalised, with as many samples of views."""
        return self.gaussians(self.decode(slat, views), slat.voxels)

    def decode(self, slat: SparseTensor, views: ViewTokens) -> Tensor:
        """Return the raw output [n, per_voxel * 14] float32."""
        h = self.run_trunk(slat, views).feats.to(self.out_layer.weight.dtype)
        return self.out_layer(F.layer_norm(h, h.shape[-1:])).float()

    def gaussians(self, raw: Tensor, voxels: Voxels) -> Gaussians:
        """Turn the raw output into gaussians; those of a voxel are consecutive."""
        config, resolution = self.config, self.config.trunk.resolution
        widths = [config.per_voxel * width for width in FIELDS.values()]
        parts = dict(zip(FIELDS, raw.split(widths, dim=1), strict=True))
        values = {name: part.unflatten(1, (config.per_voxel, -1)) for name, part in parts.items()}
        centres = (voxels.coords[:, None, 1:] + 0.5) / resolution - 0.5
        offset = torch.tanh(values["offset"] + self.offset_perturbation.float()) * (
            config.reach / 2 / resolution
        )
        spread = F.softplus(values["scale"] + math.log(math.expm1(config.scale_bias)))
        lying = values["rotation"] * config.rotation_gain
        rotation = F.normalize(lying + lying.new_tensor([1.0, 0.0, 0.0, 0.0]), dim=-1)
        bias = math.log(config.opacity_bias / (1 - config.opacity_bias))
        return Gaussians(
            means=(centres + offset).flatten(0, 1),
            scales=(spread.square() + config.smallest_scale**2).sqrt().flatten(0, 1),
            rotations=rotation.flatten(0, 1),
            opacities=torch.sigmoid(values["opacity"] + bias).flatten(0, 1),
            sh_dc=values["color"].flatten(0, 1),
            sizes=tuple(config.per_voxel * size for size in voxels.sizes),
        )


def hammersley(count: int) -> Tensor:
    """Return the 3D Hammersley points [count, 3] in [0, 1): i / count, radical inverses to bases 2 and 3."""
    points = [(i / count, _radical_inverse(i, 2), _radical_inverse(i, 3)) for i in range(count)]
    return torch.tensor(points, dtype=torch.float64).float()


def _radical_inverse(number: int, base: int) -> float:
    """Mirror the digits of a number at the point (Niederreiter 1992, section 3.1)."""
    inverse, weight = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        inverse += digit * weight
        weight /= base
    return inverse
