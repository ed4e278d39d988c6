"""Train the image autoencoder's decoder on; its latents, which the joint flow knows, stay as they are.

python -m synchuman.training.train_image_decoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from synchuman.training.command import Leg, run_leg
from synchuman.training.loop import train
from synchuman.training.structure_encoder import sample_latent
from synchuman.training.train_image_autoencoder import (
    FOLDER,
    decoding_loss,
    image_batches,
    load_image_autoencoder,
)

NOISE = 0.1  # on latents of unit variance: what the flow makes is not quite what the encoder makes


def decoder_loss(
    module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Loss of the image, from slightly noisy latents; the encoder gets no gradient, so it stays."""
    assert isinstance(module, AutoencoderKL)
    with torch.no_grad():
        posterior = module.encode(batch["images"]).latent_dist
        latents = sample_latent(posterior.mean.float(), posterior.logvar.float(), generator)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        latents = latents + NOISE / float(module.config["scaling_factor"]) * noise
    return decoding_loss(module, latents, batch["images"])


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    module = load_image_autoencoder(leg)
    train(module, image_batches(leg), decoder_loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
