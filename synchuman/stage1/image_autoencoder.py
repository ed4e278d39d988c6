"""diffusers' image autoencoder with its small operations joined, and images through it in slices."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from synchuman.nn import fused
from synchuman.stage1.config import AutoencoderConfig
from synchuman.stage1.unet_blocks import Doubling, ResidualBlock

# Pixels that the image autoencoder takes at once: one image, or several small ones. A preview is decoded
# beside a recorded step, whose memory it cannot use.
SLICE_PIXELS = 384 * 384


class TimelessBlock(ResidualBlock):
    """A residual block without time."""

    def forward(self, x: Tensor, temb: None = None) -> Tensor:  # type: ignore[override]
        """Transform maps [b, in channels, h, w]."""
        return self.shifted((x,), cast(Tensor, self.conv1.bias).expand(len(x), -1))


class MapNorm(nn.GroupNorm):
    """Group norm that keeps the channels last in memory where they are."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [b, channels, ...]."""
        return fused.group_norm(x, self)


def build_image_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """Build an image autoencoder (Rombach et al. 2022), randomly initialised."""
    levels = len(config.widths)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scaling,
    )
    for name, module in list(autoencoder.named_modules()):
        joined = _joined(module)
        if joined is not None:
            # The weights themselves and their names stay.
            for part, child in module.named_children():
                setattr(joined, part, child)
            for part, weight in module.named_parameters(recurse=False):
                setattr(joined, part, weight)
            autoencoder.set_submodule(name, joined)
    return autoencoder


def _joined(module: nn.Module) -> nn.Module | None:
    """Return our kind of a layer, without memory for its weights; None where there is none."""
    with torch.device("meta"):
        if type(module) is ResnetBlock2D:
            norm = cast(nn.GroupNorm, module.norm1)
            return TimelessBlock(
                in_channels=module.in_channels,
                out_channels=module.out_channels,
                temb_channels=cast(int, None),  # diffusers' way to say: without time
                groups=norm.num_groups,
                eps=norm.eps,
            )
        if type(module) is Upsample2D:
            return Doubling(cast(int, module.channels))
        if type(module) is nn.GroupNorm:
            return MapNorm(module.num_groups, module.num_channels, module.eps)
    return None


def encode_images(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images into scaled latents, the mode of their distribution, in slices.

    Args:
        autoencoder: Its `scaling_factor` is applied.
        images: uint8 [b, h, w, 3].

    Returns:
        [b, latent channels, h / factor, w / factor] in the autoencoder's dtype.
    """
    pixels = (images.movedim(-1, 1).float() / 127.5 - 1).to(autoencoder.dtype)
    count = _slice_length(pixels.shape[-2] * pixels.shape[-1])
    latents = [autoencoder.encode(part).latent_dist.mode() for part in pixels.split(count)]
    return torch.cat(latents) * autoencoder.config["scaling_factor"]


def decode_images(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents [b, c, h, w] into float32 images [b, H, W, 3] in [0, 1], in slices."""
    latents = (latents / autoencoder.config["scaling_factor"]).to(autoencoder.dtype)
    factor = 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
    count = _slice_length(latents.shape[-2] * latents.shape[-1] * factor**2)
    images = [autoencoder.decode(part).sample.float() for part in latents.split(count)]
    return (torch.cat(images) / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def _slice_length(pixels: int) -> int:
    """Number of images of that many pixels in one slice."""
    return max(1, SLICE_PIXELS // pixels)
