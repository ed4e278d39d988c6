"""Train the image autoencoder that colour and normal views share.

python -m synchuman.training.train_image_autoencoder --people training-data/people --out checkpoints
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from synchuman.stage1.image_autoencoder import build_image_autoencoder
from synchuman.stage1.variants import MINI
from synchuman.training.checkpoints import load_average
from synchuman.training.command import Leg, run_leg
from synchuman.training.loop import train
from synchuman.training.people_data import People, on_white, to_unit
from synchuman.training.structure_encoder import sample_latent

KEYS = ("colors", "normals", "canvas", "face")
FOLDER = "image-autoencoder"
SCALING = "scaling.json"  # in the folder
MEASURED_PEOPLE = 32  # whose latents give the scaling factor
CHUNK = 16  # images
KL_WEIGHT = 1e-6
GRADIENT_WEIGHT = 1.0


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1]


def image_loss(module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """L1 of the image and of its gradients (keeps edges without a pretrained net), faint KL."""
    assert isinstance(module, AutoencoderKL)
    images = batch["images"]
    posterior = module.encode(images).latent_dist
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    terms = decoding_loss(module, sample_latent(mean, log_variance, generator), images)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return {**terms, "loss": terms["loss"] + KL_WEIGHT * kl * mean[0].numel(), "kl": kl}


def decoding_loss(module: AutoencoderKL, latents: Tensor, images: Tensor) -> dict[str, Tensor]:
    """L1 of decoded latents [b, c, h, w] and of their gradients to the images [b, 3, H, W] in [-1, 1]."""
    decoded = module.decode(latents).sample.float()
    # The white background is most of a view: the person counts more.
    weight = 0.2 + 0.8 * F.max_pool2d((images.amin(1, keepdim=True) < 0.95).float(), 5, 1, 2)
    plain = (weight * (decoded - images).abs()).mean()
    edges = sum((a - b).abs().mean() for a, b in zip(_gradients(decoded), _gradients(images), strict=True))
    with torch.no_grad():
        quality = -10 * torch.log10(((decoded.clamp(-1, 1) - images) ** 2).mean() / 4)
    return {"loss": plain + GRADIENT_WEIGHT * edges, "l1": plain, "psnr": quality}


def load_image_autoencoder(leg: Leg) -> AutoencoderKL:
    """Load the trained autoencoder; its scaling factor gives latents of unit variance.

    The factor is measured on the first people and kept, as the flow's latents depend on it.
    """
    module = build_image_autoencoder(MINI.image_autoencoder)
    folder = leg.out / FOLDER
    load_average(module, folder)
    module.eval()
    path = folder / SCALING
    if not path.exists():
        scaling = _measure_scaling(module, People(leg.people, MEASURED_PEOPLE, KEYS))
        partial = path.with_suffix(f".{os.getpid()}.partial")  # legs that run side by side may both do this
        partial.write_text(json.dumps(scaling))
        partial.replace(path)
    module.register_to_config(scaling_factor=json.loads(path.read_text()))
    return module


@torch.no_grad()
def _measure_scaling(module: AutoencoderKL, people: People) -> float:
    modes = [module.encode(some).latent_dist.mode() for some in _views(people.tensors).split(CHUNK)]
    return round(1 / torch.cat(modes).std().item(), 5)


def _views(batch: dict[str, Tensor]) -> Tensor:
    inputs = torch.stack([on_white(batch["canvas"]), on_white(batch["face"])], dim=1)
    images = torch.cat([batch["colors"], batch["normals"], inputs], dim=1)
    return to_unit(images.flatten(0, 1), MINI.image_size)


def image_batches(leg: Leg) -> Iterator[dict[str, Tensor]]:
    """Yield a random third of the views of every batch of people."""
    people = People(leg.people, leg.limit, KEYS, leg.device)
    picker = torch.Generator().manual_seed(leg.loop.seed)
    for batch in people.batches(leg.batch or 8, leg.loop.seed):
        images = _views(batch)
        chosen = torch.randperm(len(images), generator=picker)[: len(images) // 3]
        yield {"images": images[chosen.to(images.device)]}


def run(leg: Leg) -> None:
    """Train for the leg's minutes."""
    # Another training's factor would not fit.
    (leg.out / FOLDER / SCALING).unlink(missing_ok=True)
    module = build_image_autoencoder(MINI.image_autoencoder)
    train(module, image_batches(leg), image_loss, leg.out / FOLDER, leg.loop, leg.device)


if __name__ == "__main__":
    run_leg(run, __doc__ or "")
