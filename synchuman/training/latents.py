"""Latents of all people and their mirror images, encoded by the trained autoencoders, shard by shard on disk.

python -m synchuman.training.latents --people training-data/people --out checkpoints
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synchuman.stage1.variants import MINI
from synchuman.training.command import Leg, run_leg
from synchuman.training.mirrored import mirror
from synchuman.training.people_data import (
    find_shards,
    on_white,
    one_epoch,
    read_shard,
    to_unit,
    unpack_structure,
)
from synchuman.training.precision import autocast
from synchuman.training.structure_encoder import StructureEncoder
from synchuman.training.train_image_autoencoder import load_image_autoencoder
from synchuman.training.train_structure_autoencoder import load_structure_autoencoder

LOGGER = logging.getLogger(__name__)
CHUNK = 64
MADE_BY = ("image-autoencoder", "structure-autoencoder")


class Latents:
    """Encoded people on a device; those that are encoded meanwhile join at the start of an epoch.

    Attributes:
        tensors: `views` [N, 10, 4, s, s] float16 (normal views, then colour views), `condition`
            [N, 2, 4, s, s] float16 (canvas, face), `structure` [N, 8, 16, 16, 16] float16 and `token`
            [N, h, w, 3] uint8, the image that the encoder sees.
    """

    def __init__(self, folder: Path, made_by: str, device: torch.device, limit: int | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._folder, self._made_by, self._device, self._limit = folder, made_by, device, limit
        self._read: set[Path] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self.tensors.get("views", ()))

    def refresh(self) -> None:
        """Read the shards that are new; a few new ones wait for more, as joining copies all."""
        paths = {path for path in self._folder.glob("*.safetensors") if path not in self._read}
        paths = {path for path in paths if _is_current(path, self._made_by)}
        if 10 * len(paths) < len(self._read) or (self._limit is not None and len(self) >= self._limit):
            return
        parts = {key: [value] for key, value in self.tensors.items()}
        for path in sorted(paths):
            for key, tensor in load_file(path).items():
                parts.setdefault(key, []).append(tensor.to(self._device))
        self._read |= paths
        self.tensors = {key: torch.cat(values)[: self._limit] for key, values in parts.items()}

    def batches(self, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield endless shuffled batches of everything, each row once an epoch."""
        for epoch in itertools.count():
            yield from one_epoch(self.tensors, size, np.random.default_rng([seed, epoch]))
            self.refresh()


def load_latents(leg: Leg) -> Latents:
    """Read the latents of the leg's people onto its device, encoding what is not encoded yet."""
    encode(leg)
    return Latents(_folder(leg), _fingerprint(leg), leg.device, leg.limit)


def encode(leg: Leg) -> None:
    """Encode the shards that these autoencoders have not encoded yet; several processes may do so at once."""
    made_by = _fingerprint(leg)
    _folder(leg).mkdir(parents=True, exist_ok=True)
    stale = [shard for shard in find_shards(leg.people) if not _is_current(_path(leg, shard), made_by)]
    if not stale:
        return
    images = load_image_autoencoder(leg)
    nn.Module.to(images, leg.device)  # the class decorates its own `to`, which hides it from type checkers
    structure = load_structure_autoencoder(leg).encoder.to(leg.device)
    random.shuffle(stale)  # so that processes side by side share the work
    for number, shard in enumerate(stale, start=1):
        if _is_current(_path(leg, shard), made_by):
            continue
        _save(_encode_shard(shard, images, structure, leg.device), _path(leg, shard), made_by)
        LOGGER.info("encoded %d of %d shards", number, len(stale))


def _folder(leg: Leg) -> Path:
    return leg.out / "latents"


def _path(leg: Leg, shard: Path) -> Path:
    return _folder(leg) / f"{shard.stem}.safetensors"


def _fingerprint(leg: Leg) -> str:
    """Name the autoencoders by their steps, so that latents of older ones are not taken for theirs."""
    states = [leg.out / part / "state.json" for part in MADE_BY]
    for state in states:
        if not state.exists():
            raise FileNotFoundError(f"{state} is missing: train that part first (see docs/training.md).")
    return "-".join(str(json.loads(state.read_text())["step"]) for state in states)


def _is_current(path: Path, made_by: str) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_by") == made_by


@torch.no_grad()
def encode_views(images: AutoencoderKL, people: dict[str, Tensor]) -> Tensor:
    """Encode people's normal views, colour views, canvas and face to scaled latents [b, 12, c, s, s]."""
    inputs = torch.stack([on_white(people["canvas"]), on_white(people["face"])], dim=1)
    stack = torch.cat([people["normals"], people["colors"], inputs], dim=1)
    modes = images.encode(to_unit(stack.flatten(0, 1), MINI.image_size)).latent_dist.mode()
    return (modes * float(images.config["scaling_factor"])).unflatten(0, stack.shape[:2])


@torch.no_grad()
def _encode_shard(
    shard: Path, images: AutoencoderKL, structure: StructureEncoder, device: torch.device
) -> dict[str, Tensor]:
    people = {key: values.to(device) for key, values in read_shard(shard).items()}
    reflected = mirror(people)
    people = {key: torch.cat([values, reflected[key]]) for key, values in people.items()}
    parts: dict[str, list[Tensor]] = {"views": [], "condition": [], "structure": []}
    for start in range(0, len(people["colors"]), CHUNK):
        rows = {k: v[start : start + CHUNK] for k, v in people.items()}
        with autocast(device):
            encoded = encode_views(images, rows).half().cpu()
            voxels, _ = structure(unpack_structure(rows["structure"]))
        parts["views"].append(encoded[:, :10])
        parts["condition"].append(encoded[:, 10:])
        parts["structure"].append(voxels.half().cpu())
    return {**{key: torch.cat(values) for key, values in parts.items()}, "token": people["token"].cpu()}


def _save(tensors: dict[str, Tensor], path: Path, made_by: str) -> None:
    """Write the latents of a shard whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({key: value.contiguous() for key, value in tensors.items()}, partial, {"made_by": made_by})
    partial.replace(path)


if __name__ == "__main__":
    run_leg(encode, __doc__ or "")
