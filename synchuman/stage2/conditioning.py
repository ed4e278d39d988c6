"""What Stage 2 is told: the views as tensors, and the image encoder's tokens of the body views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from synchuman.image_encoder import normalise_pixels
from synchuman.stage2.config import ViewTokensConfig
from synchuman.stage2.view_tokens import ViewTokens
from synchuman.views import FACE, FACE_COLUMNS, FACE_ROWS, NUM_BODY_VIEWS, NUM_VIEWS

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

FACE_SIDE = 512  # rows and columns of the face in the canvas

# Normalised images [n, 3, h, w] to one token map [n, rows, columns, width] per layer.
LayerMaps = Callable[[Tensor], Sequence[Tensor]]


def body_views(images: np.ndarray, size: int) -> Tensor:
    """Return the four body views as the decoders' encoder gets them.

    Args:
        images: [5, s, s, 3] uint8, order of `views.VIEWS`.
        size: Rows and columns wanted; other sizes are resized bicubically.

    Returns:
        [4, 3, size, size] float32 in [0, 1].

    Raises:
        ValueError: The images have another shape or type.
    """
    _check(images)
    return torch.stack([_to_tensor(_resize(image, size)) for image in images[:NUM_BODY_VIEWS]])


def face_canvas(images: np.ndarray) -> Tensor:
    """Return the face view at its place in the front view, on white, at the scale of a 512 pixel face.

    Args:
        images: [5, s, s, 3] uint8, order of `views.VIEWS`.

    Returns:
        [3, 1536, 1536] float32 in [0, 1].

    Raises:
        ValueError: The images have another shape or type.
    """
    _check(images)
    side = round(FACE_SIDE / (FACE_COLUMNS[1] - FACE_COLUMNS[0]))
    top, left = round(FACE_ROWS[0] * side), round(FACE_COLUMNS[0] * side)
    face = F.interpolate(_to_tensor(images[FACE])[None], size=(FACE_SIDE, FACE_SIDE), mode="bilinear")[0]
    canvas = torch.ones(3, side, side)
    canvas[:, top : top + FACE_SIDE, left : left + FACE_SIDE] = face
    return canvas


def encoder_input(images: Tensor, size: int) -> Tensor:
    """Resize images [n, 3, s, s] in [0, 1] bilinearly and normalise them as the encoder was trained."""
    return normalise_pixels(F.interpolate(images, size=(size, size), mode="bilinear"))


def layer_maps(encoder: Dinov2WithRegistersModel, layers: Sequence[int]) -> LayerMaps:
    """Return a function giving the patch tokens after some of the encoder's blocks, normed."""
    special = 1 + encoder.config.num_register_tokens
    patch = _patch_size(encoder)

    def maps(images: Tensor) -> list[Tensor]:
        rows = images.shape[-2] // patch
        hidden = encoder(images.to(encoder.dtype), output_hidden_states=True).hidden_states
        return [
            encoder.layernorm(hidden[layer + 1])[:, special:].unflatten(1, (rows, -1)) for layer in layers
        ]

    return maps


@torch.no_grad()
def encode_views(images: Tensor, config: ViewTokensConfig, maps: LayerMaps) -> Tensor:
    """Return the tokens of one sample's body views.

    Args:
        images: [4, 3, s, s] in [0, 1], from `body_views`, on the encoder's device.
        config: Sizes.
        maps: From `layer_maps`.

    Returns:
        [1, 4, side, side, channels] float32, layers concatenated.
    """
    # One at a time: the attention over an 896 pixel image is what takes the memory.
    views = [torch.cat(list(maps(encoder_input(image[None], config.image_size))), dim=-1) for image in images]
    return torch.cat(views).float()[None]


def view_tokens(
    colors: np.ndarray, normals: np.ndarray, config: ViewTokensConfig, encoder: Dinov2WithRegistersModel
) -> ViewTokens:
    """Return what the decoders need to know of the views.

    Args:
        colors: [5, s, s, 3] uint8, order of `views.VIEWS`.
        normals: Like `colors`.
        config: Sizes; must fit the encoder.
        encoder: The image encoder; it runs where it is.

    Raises:
        ValueError: The images have another shape or type, or the encoder another size.
    """
    have = (encoder.config.hidden_size, _patch_size(encoder))
    if have != (config.encoder_width, config.patch) or max(config.layers) >= encoder.config.num_hidden_layers:
        raise ValueError(
            f"The image encoder (width, patch {have}) does not fit the view tokens' config {config}."
        )
    maps = layer_maps(encoder, config.layers)
    color, normal = (
        encode_views(body_views(images, config.view_size).to(encoder.device), config, maps)
        for images in (colors, normals)
    )
    return ViewTokens(color, normal)


def _patch_size(encoder: Dinov2WithRegistersModel) -> int:
    return int(encoder.embeddings.patch_embeddings.projection.kernel_size[0])


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or len(images) != NUM_VIEWS or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"Views must be uint8 [{NUM_VIEWS}, s, s, 3]; got {images.dtype} {list(images.shape)}."
        )


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
