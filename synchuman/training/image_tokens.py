"""The image encoder as training sees it: uint8 images in, normalised tokens out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synchuman.image_encoder import (
    ImageEncoderConfig,
    build_image_encoder,
    encode_tokens,
    normalise_tokens_input,
)


class ImageTokens(nn.Module):
    """DINOv2-with-registers at the variant's size, as `synchuman.image_encoder` runs it.

    Args:
        config: The variant's image-encoder config.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.model = build_image_encoder(config)
        self.width = config.width

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens [b, T, width] of uint8 images [b, h, w, 3]."""
        return encode_tokens(self.model, normalise_tokens_input(images).to(self.model.dtype))


def augment_tokens(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift brightness, contrast and colour of uint8 [b, h, w, 3] and blank a random box.

    Black stays black: it marks the background.
    """
    b, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=device)

    x = images.float() / 255
    person = (images.amax(-1, keepdim=True) > 0).float()
    x = x.clamp(min=1e-4) ** uniform(0.7, 1.4, b, 1, 1, 1) * uniform(0.75, 1.2, b, 1, 1, 3)
    x = x + 0.02 * torch.randn(x.shape, generator=generator, device=device)
    small = F.interpolate(x.movedim(-1, 1), scale_factor=0.5, mode="area")
    soft = F.interpolate(small, size=x.shape[1:3], mode="bilinear").movedim(1, -1)
    x = torch.where(uniform(0, 1, b, 1, 1, 1) < 0.3, soft, x) * person
    side = x.shape[1]
    corner, size = uniform(0, side, b, 2, 1, 1), uniform(0, 0.25 * side, b, 2, 1, 1)
    rows = torch.arange(side, device=device)[None, :, None]
    columns = torch.arange(side, device=device)[None, None, :]
    inside = (rows - corner[:, 0]).abs() < size[:, 0] / 2
    inside = inside & ((columns - corner[:, 1]).abs() < size[:, 1] / 2) & (uniform(0, 1, b, 1, 1) < 0.3)
    return (x * ~inside[..., None] * 255).clamp(0, 255).to(torch.uint8)
