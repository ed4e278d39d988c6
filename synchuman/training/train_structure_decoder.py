"""Fit the structure decoder to latents as the joint flow makes them, which is not quite how the encoder does.

For every person the flow samples the structure while the views are held at the true ones, so that the sample
belongs to that person; the decoder then learns to decode it. It starts from the decoder of the structure
autoencoder when that leg was run.

    python -m synchuman.training.train_structure_decoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synchuman.nn.flow import schedule
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.stage1.variants import MINI, MINI_STRUCTURE_DECODER
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg, run_leg
from synchuman.training.latents import encode_views
from synchuman.training.loop import train
from synchuman.training.people_data import find_shards, read_shard, shuffled_batches, unpack_structure
from synchuman.training.precision import autocast
from synchuman.training.train_image_autoencoder import load_image_autoencoder
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.train_joint import FOLDER as JOINT
from synchuman.training.train_joint import JointTraining, velocities
from synchuman.training.train_structure_autoencoder import FOLDER as AUTOENCODER
from synchuman.training.train_structure_autoencoder import load_structure_autoencoder, occupancy_loss
from synchuman.views import NUM_VIEWS

LOGGER = logging.getLogger(__name__)
FOLDER = "structure-decoder"
STEPS = 6
CHUNKS = {"cpu": 4, "cuda": 32}  # people sampled at once
WIDTH = 8  # latents of a column that is decoded in training, of 16
KEYS = ("colors", "normals", "structure", "canvas", "face", "token")


@torch.no_grad()
def sample_structures(
    module: JointTraining, views: Tensor, condition: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Sample structures of people whose views are known.

    Args:
        module: Trained joint flow.
        views: [b, 10, c, s, s] true view latents, normals, then colours.
        condition: [b, 2, c, s, s] latents of canvas and face.
        tokens: [b, tokens, width] of the photo.
        generator: Of the noise.

    Returns:
        [b, 8, n, n, n].
    """
    device, flow = views.device, MINI.joint_network.structure
    true = views.float().unflatten(1, (2, NUM_VIEWS)).transpose(0, 1)
    noise = torch.randn(true.shape, generator=generator, device=device)
    shape = (len(views), flow.channels, *(flow.resolution,) * 3)
    structure = torch.randn(shape, generator=generator, device=device)
    for now, after in pairwise(schedule(STEPS)):
        t = torch.full((len(views),), now, device=device)
        held = (1 - now) * true + now * noise
        _, velocity = velocities(module, held, structure, t, condition.float(), tokens)
        structure = structure - (now - after) * velocity
    return structure


class Sampler:
    """Everything that turns a shard of people into sampled structures with the true occupancy."""

    def __init__(self, leg: Leg) -> None:
        self.device = leg.device
        self.images: AutoencoderKL = load_image_autoencoder(leg)
        nn.Module.to(self.images, leg.device)
        self.joint = JointTraining(load_image_encoder(leg))
        load_average(self.joint, leg.out / JOINT)
        self.joint.to(leg.device).eval()
        self.generator = torch.Generator(device=leg.device).manual_seed(leg.loop.seed)

    @torch.no_grad()
    def __call__(self, shard: Path) -> dict[str, Tensor]:
        """Return `latent` [n, 8, 16, 16, 16] float16 and the packed `structure` of a shard's people."""
        people = read_shard(shard, KEYS)
        parts = []
        chunk = CHUNKS.get(self.device.type, 4)
        for start in range(0, len(people["colors"]), chunk):
            rows = {k: v[start : start + chunk].to(self.device) for k, v in people.items()}
            with autocast(self.device):
                encoded = encode_views(self.images, rows)
                tokens = self.joint.encoder(rows["token"])
                parts.append(
                    sample_structures(self.joint, encoded[:, :10], encoded[:, 10:], tokens, self.generator)
                )
        return {"latent": torch.cat(parts).half().cpu(), "structure": people["structure"]}


def load_samples(leg: Leg) -> dict[str, Tensor]:
    """Sample what was not sampled yet, shard by shard, and return all on the leg's device."""
    folder = leg.out / FOLDER / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    sampler: Sampler | None = None
    parts: dict[str, list[Tensor]] = {}
    for shard in find_shards(leg.people)[: leg.limit and -(-leg.limit // 32)]:
        path = folder / f"{shard.stem}.safetensors"
        if not path.exists():
            sampler = sampler or Sampler(leg)
            partial = path.with_suffix(".partial")
            save_file(sampler(shard), partial)
            partial.replace(path)
            LOGGER.info("sampled %s", shard.name)
        for key, value in load_file(path).items():
            parts.setdefault(key, []).append(value.to(leg.device))
    return {key: torch.cat(values) for key, values in parts.items()}


def decoder_loss(
    module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Loss of the occupancy in a random upright column of every batch."""
    latent, occupancy = batch["latent"].float(), unpack_structure(batch["structure"])
    scale = occupancy.shape[2] // latent.shape[2]
    # The sum of two draws favours the middle, where people stand.
    room = (latent.shape[2] - WIDTH) // 2 + 1
    draws = torch.randint(0, room, (2, 2), generator=generator, device=latent.device).sum(0)
    x, y = (int(v) for v in draws)
    latent = latent[:, :, x : x + WIDTH, y : y + WIDTH]
    columns = slice(x * scale, (x + WIDTH) * scale), slice(y * scale, (y + WIDTH) * scale)
    noisy = latent + 0.05 * torch.randn(latent.shape, generator=generator, device=latent.device)
    return occupancy_loss(module(noisy), occupancy[:, :, columns[0], columns[1]])


def load_structure_decoder(leg: Leg) -> StructureDecoder:
    """Load the fitted decoder, or the autoencoder's when this leg was not run."""
    if not (leg.out / FOLDER / "average.safetensors").exists():
        return load_structure_autoencoder(leg).decoder
    module = StructureDecoder(MINI_STRUCTURE_DECODER)
    load_average(module, leg.out / FOLDER)
    return module.eval()


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    samples = load_samples(leg)
    module = StructureDecoder(MINI_STRUCTURE_DECODER)
    if (leg.out / AUTOENCODER / "average.safetensors").exists():
        module = load_structure_autoencoder(leg).decoder

    def batches() -> Iterator[dict[str, Tensor]]:
        return shuffled_batches(samples, leg.batch or 8, leg.loop.seed)

    train(module, batches(), decoder_loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
