"""What the joint network is told about the photo besides its tokens: image latents, class label, prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synchuman.image_encoder import normalise_pixels
from synchuman.nn.embeddings import sinusoid
from synchuman.stage1.config import AutoencoderConfig, ClipConfig
from synchuman.views import VIEWS

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection

# Means and deviations of RGB in [0, 1] on which CLIP was trained.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Pixels that the image autoencoder takes at once: one published image, or several small ones.
SLICE_PIXELS = 768 * 768


def build_image_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """Build an image autoencoder (Rombach et al. 2022), randomly initialised."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scaling,
    )


def build_clip(config: ClipConfig) -> CLIPVisionModelWithProjection:
    """Build a CLIP image encoder with projection (Radford et al. 2021), randomly initialised."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            patch_size=config.patch,
            image_size=config.image_size,
            projection_dim=config.projection,
            hidden_act="gelu",
        )
    )


def normalise_clip_input(images: np.ndarray, size: int) -> Tensor:
    """Turn square uint8 images [b, h, h, 3] into the CLIP encoder's input [b, 3, size, size] float32."""
    resized = [
        np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images
    ]
    pixels = torch.from_numpy(np.stack(resized)).movedim(-1, 1).float() / 255
    return normalise_pixels(pixels, CLIP_MEAN, CLIP_STD)


def class_labels(embeddings: Tensor) -> Tensor:
    """Join image embeddings [b, n] with the embedding of noise level 0 to class labels [b, 2 n]."""
    level = sinusoid(torch.zeros(len(embeddings), device=embeddings.device), embeddings.shape[-1])
    return torch.cat([embeddings, level.to(embeddings.dtype)], dim=-1)


def select_prompts(view_prompts: Tensor) -> Tensor:
    """Pick the prompts of our views: [2 domains, 7, tokens, width] to [10, tokens, width]."""
    return view_prompts[:, [view.prompt for view in VIEWS]].flatten(0, 1)


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
