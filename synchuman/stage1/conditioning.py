"""What the joint network is told about the photo besides its tokens: image latents, class label, prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synchuman.image_encoder import normalise_pixels
from synchuman.nn.embeddings import sinusoid
from synchuman.stage1.config import ClipConfig
from synchuman.views import VIEWS

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

# Means and deviations of RGB in [0, 1] on which CLIP was trained.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


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
