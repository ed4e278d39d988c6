"""Train the structured-latent autoencoder: surface in voxels to latents, and with the views to a fine mesh.

python -m synchuman.training.train_slat_autoencoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor, nn

from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.variants import MINI as STAGE1
from synchuman.stage2.config import Stage2Config
from synchuman.stage2.mesh_decoder import MeshDecoder
from synchuman.stage2.variants import MINI
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg, run_leg
from synchuman.training.image_tokens import ImageTokens
from synchuman.training.loop import train
from synchuman.training.slat_encoder import SlatEncoder, voxel_inputs
from synchuman.training.structure_encoder import sample_latent
from synchuman.training.surface_data import SurfacePeople
from synchuman.training.surface_losses import surface_losses
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.true_views import blur_some, true_view_tokens

LOGGER = logging.getLogger(__name__)
FOLDER = "slat-autoencoder"
KL_WEIGHT = 2e-3
SOFT_SHARE = 0.5  # of people whose views are as soft as Stage 1's
SOFTNESS = 2  # thirds of Stage 1's resolution that its views really show


class SlatAutoencoder(nn.Module):
    """Encoder and the mesh decoder that ships.

    Args:
        config: Sizes of the decoder, and channels of the latents.
    """

    def __init__(self, config: Stage2Config = MINI) -> None:
        super().__init__()
        if len(config.mesh_decoder.widths) != 1:
            raise ValueError("Surface targets are for one subdivision: give mesh_decoder.widths one entry.")
        trunk = config.mesh_decoder.trunk
        self.encoder = SlatEncoder(
            trunk.channels, trunk.width // 3, max(1, trunk.heads // 3), window=trunk.window
        )
        self.decoder = MeshDecoder(config.mesh_decoder, config.views)


def slat_autoencoder_loss(
    module: nn.Module,
    batch: dict[str, Tensor],
    generator: torch.Generator,
    images: ImageTokens,
    config: Stage2Config,
    soft_size: int,
) -> dict[str, Tensor]:
    """Surface losses of the decoded sample and a faint Kullback-Leibler term.

    Args:
        module: The autoencoder.
        batch: From `SurfacePeople.batches`.
        generator: Random source.
        images: The frozen image encoder.
        config: Sizes.
        soft_size: Rows and columns of Stage 1's views.
    """
    assert isinstance(module, SlatAutoencoder)
    voxels = Voxels.of(batch["coords"], len(batch["colors"]))
    both = torch.cat([batch["colors"], batch["normals"]], dim=1)
    colors, normals = blur_some(both, soft_size, SOFT_SHARE, generator).chunk(2, dim=1)
    views = true_view_tokens(images, colors, normals, config.views)
    mean, log_variance = module.encoder(voxel_inputs(batch), voxels)
    slat = SparseTensor(sample_latent(mean, log_variance, generator), voxels)
    decoded = module.decoder(slat, views)
    terms = surface_losses(decoded.feats, voxels, batch, config.mesh_decoder.resolution)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return {**terms, "loss": terms["loss"] + KL_WEIGHT * kl, "kl": kl}


def load_slat_autoencoder(leg: Leg, config: Stage2Config = MINI) -> SlatAutoencoder:
    """Load the trained autoencoder, on the CPU.

    Raises:
        FileNotFoundError: It was never trained.
    """
    module = SlatAutoencoder(config)
    load_average(module, leg.out / FOLDER)
    return module.eval()


def run(leg: Leg, config: Stage2Config = MINI, stage1: Stage1Config = STAGE1) -> None:
    """Train for the leg's minutes."""
    images = load_image_encoder(leg, stage1.image_encoder).to(leg.device)
    people = SurfacePeople(leg.people, leg.limit, leg.device)
    module = SlatAutoencoder(config)
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (module.encoder, module.decoder)]
    LOGGER.info("encoder %.1f M, decoder %.1f M parameters", *sizes)
    loss = partial(
        slat_autoencoder_loss, images=images, config=config, soft_size=SOFTNESS * stage1.image_size // 3
    )
    batches = people.batches(leg.batch or 8, leg.loop.seed)
    train(module, batches, loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
