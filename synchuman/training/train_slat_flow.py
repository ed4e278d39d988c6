"""Train the flow over structured latents at a person's voxels, told by the photo.

python -m synchuman.training.train_slat_flow --people training-data/people --out checkpoints
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.variants import MINI as STAGE1
from synchuman.stage2.config import SlatNormalisation, Stage2Config
from synchuman.stage2.sampler import TIMES_PER_UNIT, normalise
from synchuman.stage2.slat_flow import SlatFlow
from synchuman.stage2.variants import MINI
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg, run_leg
from synchuman.training.image_tokens import ImageTokens, augment_tokens
from synchuman.training.loop import train
from synchuman.training.slat_encoder import SlatEncoder, measure_normalisation
from synchuman.training.surface_data import SurfacePeople
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.train_joint import DROP_CONDITION, sample_times
from synchuman.training.train_slat_autoencoder import load_slat_autoencoder

LOGGER = logging.getLogger(__name__)
FOLDER = "slat-flow"
NORMALISATION = "normalisation.json"


def slat_flow_loss(
    module: nn.Module,
    batch: dict[str, Tensor],
    generator: torch.Generator,
    images: ImageTokens,
    encoder: SlatEncoder,
    normalisation: SlatNormalisation,
) -> dict[str, Tensor]:
    """Flow-matching loss (Lipman et al. 2023): v = noise - data on the straight path.

    Args:
        module: The flow.
        batch: From `SurfacePeople.batches`; the latents are those of its augmented voxels.
        generator: Random source.
        images: The frozen image encoder.
        encoder: The trained encoder of the latents.
        normalisation: Of the latents.

    Returns:
        `loss`, and to be logged `sample`, the mean squared error of the data that the velocity implies.
    """
    assert isinstance(module, SlatFlow)
    people, device = len(batch["token"]), batch["coords"].device
    voxels = Voxels.of(batch["coords"], people)
    data = normalise(encoder.encode(batch, voxels), normalisation)
    with torch.no_grad():
        tokens = images(augment_tokens(batch["token"], generator))
        keep = torch.rand(people, 1, 1, generator=generator, device=device) >= DROP_CONDITION
    t = sample_times(people, generator, device)
    noise = torch.randn(data.shape, generator=generator, device=device)
    at = t[voxels.coords[:, 0], None]
    noisy = (1 - at) * data + at * noise
    velocity = module(SparseTensor(noisy, voxels), TIMES_PER_UNIT * t, module.project(tokens * keep)).feats
    velocity = velocity.float()
    error = (velocity - (noise - data)).square().mean()
    sample = (noisy - at * velocity.detach() - data).square().mean()
    return {"loss": error, "sample": sample}


def load_slat_flow(leg: Leg, config: Stage2Config = MINI) -> tuple[SlatFlow, SlatNormalisation]:
    """Load the trained flow, on the CPU, and the normalisation that it was trained with.

    Raises:
        FileNotFoundError: It was never trained.
    """
    flow = SlatFlow(config.flow)
    load_average(flow, leg.out / FOLDER)
    return flow.eval(), _read_normalisation(leg.out / FOLDER / NORMALISATION)


def _read_normalisation(path: Path) -> SlatNormalisation:
    stored = json.loads(path.read_text())
    return SlatNormalisation(tuple(stored["mean"]), tuple(stored["std"]))


def run(leg: Leg, config: Stage2Config = MINI, stage1: Stage1Config = STAGE1) -> None:
    """Train for the leg's minutes; the latents are normalised as measured on the first call."""
    folder = leg.out / FOLDER
    images = load_image_encoder(leg, stage1.image_encoder).to(leg.device)
    encoder = load_slat_autoencoder(leg, config).encoder.to(leg.device).requires_grad_(False)
    people = SurfacePeople(leg.people, leg.limit, leg.device)
    if not (folder / NORMALISATION).exists():
        folder.mkdir(parents=True, exist_ok=True)
        measured = measure_normalisation(encoder, people)
        (folder / NORMALISATION).write_text(json.dumps(asdict(measured)))
    normalisation = _read_normalisation(folder / NORMALISATION)
    flow = SlatFlow(config.flow)
    LOGGER.info("flow %.1f M parameters", sum(p.numel() for p in flow.parameters()) / 1e6)
    loss = partial(slat_flow_loss, images=images, encoder=encoder, normalisation=normalisation)
    batches = people.batches(leg.batch or 16, leg.loop.seed)
    train(flow, batches, loss, folder, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
