"""Train the structure autoencoder: 64^3 surface voxels to 16^3 latents and back.

python -m synchuman.training.train_structure_autoencoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.stage1.variants import MINI_STRUCTURE_DECODER
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg, run_leg
from synchuman.training.loop import train
from synchuman.training.people_data import People, unpack_structure
from synchuman.training.structure_encoder import StructureEncoder, sample_latent

FOLDER = "structure-autoencoder"
KL_WEIGHT = 3e-6
OCCUPIED_WEIGHT = 4.0  # a shell fills about 2 % of the grid


class StructureAutoencoder(nn.Module):
    """Encoder and the decoder that ships."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = StructureEncoder(latent=MINI_STRUCTURE_DECODER.latent_channels)
        self.decoder = StructureDecoder(MINI_STRUCTURE_DECODER)


def random_crop(occupancy: Tensor, generator: torch.Generator, width: int = 32, step: int = 4) -> Tensor:
    """Cut a random upright column of `width` voxels a side: most of a person at a quarter of the cost.

    Args:
        occupancy: [B, 1, n, n, n].
        generator: Random source; one place for the whole batch.
        width: Voxels of the column along x and y.
        step: The place is a multiple of it, the voxels of a latent.
    """
    room = (occupancy.shape[2] - width) // step
    # The sum of two draws favours the middle, where people stand.
    draws = torch.randint(0, room // 2 + 1, (2, 2), generator=generator, device=occupancy.device)
    x, y = (int(v) * step for v in draws.sum(0))
    return occupancy[:, :, x : x + width, y : y + width]


def structure_loss(
    module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted cross entropy, soft dice and a faint Kullback-Leibler term."""
    assert isinstance(module, StructureAutoencoder)
    occupancy = random_crop(unpack_structure(batch["structure"]), generator)
    flip = torch.rand(len(occupancy), generator=generator, device=occupancy.device) < 0.5
    occupancy = torch.where(flip[:, None, None, None, None], occupancy.flip(2), occupancy)
    mean, log_variance = module.encoder(occupancy)
    mean, log_variance = mean.float(), log_variance.float()
    terms = occupancy_loss(module.decoder(sample_latent(mean, log_variance, generator)), occupancy)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return {**terms, "loss": terms["loss"] + KL_WEIGHT * kl * mean[0].numel(), "kl": kl}


def occupancy_loss(logits: Tensor, occupancy: Tensor) -> dict[str, Tensor]:
    """Weighted cross entropy and soft dice of logits [B, 1, ...]; `iou` is for the log."""
    logits = logits.float()
    weight = torch.tensor(OCCUPIED_WEIGHT, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, occupancy, pos_weight=weight)
    guess = logits.sigmoid()
    overlap = (guess * occupancy).sum((1, 2, 3, 4))
    dice = 1 - (2 * overlap + 1) / (guess.sum((1, 2, 3, 4)) + occupancy.sum((1, 2, 3, 4)) + 1)
    with torch.no_grad():
        hit = (logits > 0) & (occupancy > 0)
        union = (logits > 0) | (occupancy > 0)
        iou = hit.sum() / union.sum().clamp(min=1)
    return {"loss": entropy * 10 + dice.mean(), "entropy": entropy, "dice": dice.mean(), "iou": iou}


@torch.no_grad()
def normalise_latents(module: StructureAutoencoder, occupancy: Tensor) -> None:
    """Scale the latents to unit variance per channel by folding the factor into both halves.

    The flow learns best on such latents, and the decoder keeps the published interface without a scaling of
    its own. The mean stays: zero padding makes a shift inexact at the border, which every person touches.
    """
    mean, _ = module.encoder(occupancy)
    spread = mean.std((0, 2, 3, 4))
    out, stem = module.encoder.out, module.decoder.input_layer
    assert out.bias is not None
    out.weight[: len(spread)] /= spread[:, None, None, None, None]
    out.bias[: len(spread)] /= spread
    out.bias[len(spread) :] -= 2 * spread.log()
    stem.weight *= spread[None, :, None, None, None]


def load_structure_autoencoder(leg: Leg) -> StructureAutoencoder:
    """Load the trained autoencoder with normalised latents."""
    module = StructureAutoencoder()
    load_average(module, leg.out / FOLDER)
    module.eval()
    people = People(leg.people, 64, ("structure",))
    normalise_latents(module, unpack_structure(people.tensors["structure"]))
    return module


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    people = People(leg.people, leg.limit, ("structure",), leg.device)
    batches = people.batches(leg.batch or 8, leg.loop.seed)
    train(
        StructureAutoencoder(),
        batches,
        structure_loss,
        leg.out / FOLDER,
        leg.loop,
        leg.device,
    )


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
