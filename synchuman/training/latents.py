"""Latents of all people, encoded once by the trained autoencoders and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synchuman.stage1.variants import MINI
from synchuman.training.command import Leg
from synchuman.training.people_data import People, on_white, to_unit, unpack_structure
from synchuman.training.train_image_autoencoder import load_image_autoencoder
from synchuman.training.train_structure_autoencoder import load_structure_autoencoder

LOGGER = logging.getLogger(__name__)
CHUNK = 32


class Latents:
    """Encoded people.

    Attributes:
        tensors: `views` [N, 10, 4, s, s] float16 (normal views, then colour views), `condition`
            [N, 2, 4, s, s] float16 (canvas, face), `structure` [N, 8, 16, 16, 16] float16 and `token`
            [N, h, w, 3] uint8, the image that the encoder sees.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["views"])

    def batches(self, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield endless shuffled batches of everything."""
        rng = np.random.default_rng(seed)
        while True:
            order = torch.from_numpy(rng.permutation(len(self)))
            for start in range(0, len(order) - size + 1, size):
                index = order[start : start + size]
                yield {key: value[index] for key, value in self.tensors.items()}


def load_or_make_latents(leg: Leg) -> Latents:
    """Read the latents of the leg's people, encoding what is not encoded yet."""
    path = leg.out / "latents.safetensors"
    people = People(leg.people, leg.limit)
    if path.exists():
        tensors = load_file(path)
        if len(tensors["views"]) == len(people):
            return Latents({**tensors, "token": people.tensors["token"]})
        LOGGER.info("people were added: encoding anew")
    tensors = _encode(people, leg)
    _save(tensors, path)
    return Latents({**tensors, "token": people.tensors["token"]})


@torch.no_grad()
def _encode(people: People, leg: Leg) -> dict[str, Tensor]:
    images = load_image_autoencoder(leg)
    nn.Module.to(images, leg.device)  # the class decorates its own `to`, which hides it from type checkers
    structure = load_structure_autoencoder(leg).encoder.to(leg.device)
    scale = float(images.config["scaling_factor"])
    parts: dict[str, list[Tensor]] = {"views": [], "condition": [], "structure": []}
    for start in range(0, len(people), CHUNK):
        rows = {k: v[start : start + CHUNK].to(leg.device) for k, v in people.tensors.items()}
        inputs = torch.stack([on_white(rows["canvas"]), on_white(rows["face"])], dim=1)
        stack = torch.cat([rows["normals"], rows["colors"], inputs], dim=1)
        with torch.autocast(leg.device.type, dtype=torch.bfloat16):
            encoded = images.encode(to_unit(stack.flatten(0, 1), MINI.image_size)).latent_dist.mode() * scale
            voxels, _ = structure(unpack_structure(rows["structure"]))
        encoded = encoded.unflatten(0, stack.shape[:2]).half().cpu()
        parts["views"].append(encoded[:, :10])
        parts["condition"].append(encoded[:, 10:])
        parts["structure"].append(voxels.half().cpu())
        LOGGER.info("encoded %d of %d", start + len(stack), len(people))
    return {key: torch.cat(values) for key, values in parts.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
