"""The views of many people at once as the frozen image encoder's tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from synchuman.stage2.conditioning import encoder_input, layer_maps
from synchuman.stage2.config import ViewTokensConfig
from synchuman.stage2.view_tokens import ViewTokens
from synchuman.training.image_tokens import ImageTokens
from synchuman.views import NUM_BODY_VIEWS


@torch.no_grad()
def true_view_tokens(
    encoder: ImageTokens, colors: Tensor, normals: Tensor, config: ViewTokensConfig
) -> ViewTokens:
    """Return the view tokens of people, as `stage2.conditioning.view_tokens` does for one.

    Args:
        encoder: On the images' device.
        colors: [b, 5, s, s, 3] uint8, order of `views.VIEWS`.
        normals: Like `colors`.
        config: Sizes.
    """
    maps = layer_maps(encoder.model, config.layers)
    stack = torch.stack([colors, normals])[:, :, :NUM_BODY_VIEWS].flatten(0, 2)
    images = stack.movedim(-1, 1).float() / 255
    size = (config.view_size, config.view_size)
    if images.shape[-2:] != size:
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    tokens = torch.cat(list(maps(encoder_input(images, config.image_size))), dim=-1).float()
    color, normal = tokens.unflatten(0, (2, len(colors), NUM_BODY_VIEWS))
    return ViewTokens(color, normal)


def blur_some(images: Tensor, size: int, share: float, generator: torch.Generator) -> Tensor:
    """Bring a share of the people's uint8 images [b, v, s, s, 3] down to `size` and back up.

    Stage 1 makes views of that size; the decoder must know both sharp and soft ones.
    """
    if images.shape[2] <= size:
        return images
    flat = images.flatten(0, 1).movedim(-1, 1).float()
    small = F.interpolate(flat, size=(size, size), mode="area")
    soft = F.interpolate(small, size=images.shape[2:4], mode="bicubic").round().clamp(0, 255)
    soft = soft.to(torch.uint8).movedim(1, -1).unflatten(0, images.shape[:2])
    chosen = torch.rand(len(images), generator=generator, device=images.device) < share
    return torch.where(chosen[:, None, None, None, None], soft, images)
