"""Train the image encoder: its tokens alone must tell the structure and the four body views.

The small decoder on top is thrown away; the encoder starts the joint training and then learns on with it.

    python -m synchuman.training.train_image_encoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synchuman.stage1.variants import MINI
from synchuman.training.command import Leg, run_leg
from synchuman.training.image_tokens import ImageTokens, augment_tokens
from synchuman.training.latents import load_or_make_latents
from synchuman.training.loop import train
from synchuman.views import NUM_BODY_VIEWS, NUM_VIEWS

STRUCTURE_PATCH = 2
VIEW_PATCH = 4


class TokensToPerson(nn.Module):
    """The encoder and a transformer decoder that regresses all latents at once from its tokens.

    Args:
        layers: Decoder layers.
    """

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.encoder = ImageTokens(MINI.image_encoder)
        width = self.encoder.width
        flow = MINI.joint_network
        self.structure_tokens = (flow.structure.resolution // STRUCTURE_PATCH) ** 3
        self.view_tokens = (flow.latent_size // VIEW_PATCH) ** 2
        queries = self.structure_tokens + NUM_BODY_VIEWS * self.view_tokens
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        layer = nn.TransformerDecoderLayer(
            width, width // 32, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.to_structure = nn.Linear(width, flow.structure.channels * STRUCTURE_PATCH**3)
        self.to_views = nn.Linear(width, 2 * 4 * VIEW_PATCH**2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [b, h, w, 3] to structure tokens [b, T, 8 p^3] and view tokens [b, 4, T', 2 * 4 p^2]."""
        tokens = self.encoder(images)
        decoded = self.decoder(self.queries.expand(len(tokens), -1, -1), tokens)
        structure = self.to_structure(decoded[:, : self.structure_tokens])
        views = self.to_views(decoded[:, self.structure_tokens :])
        return structure, views.unflatten(1, (NUM_BODY_VIEWS, self.view_tokens))


def structure_patches(latents: Tensor, patch: int = STRUCTURE_PATCH) -> Tensor:
    """Cut [b, c, n, n, n] into tokens [b, (n/p)^3, c p^3]."""
    b, c, n = latents.shape[:3]
    cut = latents.reshape(b, c, n // patch, patch, n // patch, patch, n // patch, patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, (n // patch) ** 3, c * patch**3)


def view_patches(latents: Tensor, patch: int = VIEW_PATCH) -> Tensor:
    """Cut the body views of [b, 2 domains, 5, c, s, s] into tokens [b, 4, (s/p)^2, 2 c p^2]."""
    body = latents[:, :, :NUM_BODY_VIEWS].permute(0, 2, 1, 3, 4, 5)
    b, v, d, c, s, _ = body.shape
    cut = body.reshape(b, v, d, c, s // patch, patch, s // patch, patch)
    return cut.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(b, v, (s // patch) ** 2, d * c * patch**2)


def encoder_loss(
    module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean squared error of both kinds of latents."""
    structure, views = module(augment_tokens(batch["token"], generator))
    latents = batch["views"].float().unflatten(1, (2, NUM_VIEWS))
    structure_error = F.mse_loss(structure.float(), structure_patches(batch["structure"].float()))
    view_error = F.mse_loss(views.float(), view_patches(latents))
    return {"loss": structure_error + view_error, "structure": structure_error, "views": view_error}


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    latents = load_or_make_latents(leg)
    batches = latents.batches(leg.batch or 16, leg.loop.seed)
    train(TokensToPerson(), batches, encoder_loss, leg.out / "image-encoder", leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
