"""The image encoder that both stages share: DINOv2 with registers, and what it says about the photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synchuman.photo.framing import frame_tokens

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

# Means and deviations of RGB in [0, 1] on which the public encoders were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of transformers' Dinov2WithRegistersModel, with the published values as defaults."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    image_size: int = 518
    registers: int = 4
    mlp_ratio: int = 4


def build_image_encoder(config: ImageEncoderConfig) -> Dinov2WithRegistersModel:
    """Build a DINOv2 with registers (Oquab et al. 2023, Darcet et al. 2023), randomly initialised."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            patch_size=config.patch,
            image_size=config.image_size,
            num_register_tokens=config.registers,
            mlp_ratio=config.mlp_ratio,
        )
    )


def normalise_pixels(
    pixels: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """Shift and scale images [b, 3, h, w] in [0, 1] as an encoder was trained."""
    shape = (1, 3, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)


def normalise_tokens_input(images: Tensor) -> Tensor:
    """Turn uint8 images [b, h, w, 3] into the image encoder's input [b, 3, h, w] float32."""
    return normalise_pixels(images.movedim(-1, 1).float() / 255)


def encode_tokens(encoder: Dinov2WithRegistersModel, pixels: Tensor) -> Tensor:
    """Encode [b, 3, h, w] into all tokens before the final norm, each normalised without parameters.

    Returns:
        [b, 1 + registers + patches, width].
    """
    tokens = encoder.encoder(encoder.embeddings(pixels)).last_hidden_state
    return F.layer_norm(tokens, tokens.shape[-1:])


def encode_photo(encoder: Dinov2WithRegistersModel, rgba: np.ndarray) -> Tensor:
    """Encode a cut-out photo, framed for the encoder, into its tokens.

    Args:
        encoder: It runs where it is, at its own precision and image size.
        rgba: [h, w, 4] uint8, straight alpha.

    Returns:
        [1, 1 + registers + patches, width] in the encoder's dtype.

    Raises:
        PhotoError: The cut-out is empty.
    """
    size = encoder.config.image_size
    framed = torch.from_numpy(frame_tokens(rgba, size if isinstance(size, int) else size[0]))[None]
    return encode_tokens(encoder, normalise_tokens_input(framed).to(encoder.device, encoder.dtype))
