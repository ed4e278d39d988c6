"""Reading generated people back for training: shards on disk, batches in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KEYS = ("colors", "normals", "structure", "canvas", "face", "token")


class People:
    """Generated people from shards, all in memory as uint8.

    Args:
        folder: Folder of `people-*.npz` shards as `synchuman.training.people.generate` writes them.
        limit: Read at most that many people.
        keys: The arrays to read.
        device: Where they are kept.

    Raises:
        FileNotFoundError: No shards; the message says which command makes them.
    """

    def __init__(
        self,
        folder: Path,
        limit: int | None = None,
        keys: Sequence[str] = KEYS,
        device: torch.device | str = "cpu",
    ) -> None:
        parts: dict[str, list[Tensor]] = {key: [] for key in keys}
        count = 0
        for shard in find_shards(folder):
            for key, tensor in read_shard(shard, keys).items():
                parts[key].append(tensor.to(device))
            count += len(parts[keys[0]][-1])
            if limit is not None and count >= limit:
                break
        self.tensors = {key: torch.cat(values)[:limit] for key, values in parts.items()}

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batches(self, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield endless shuffled batches."""
        return shuffled_batches(self.tensors, size, seed)


def find_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder, by seed.

    Raises:
        FileNotFoundError: No shards; the message says which command makes them.
    """
    shards = sorted(folder.glob("people-*.npz"))
    if not shards:
        raise FileNotFoundError(
            f"No people in {folder}: run `python -m synchuman.training.people.generate --out {folder}`."
        )
    return shards


def read_shard(path: Path, keys: Sequence[str] = KEYS) -> dict[str, Tensor]:
    """Read the named arrays of a shard."""
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in keys}


def shuffled_batches(tensors: dict[str, Tensor], size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield endless batches of rows of tensors that share their first axis, each row once an epoch."""
    rng = np.random.default_rng(seed)
    while True:
        yield from one_epoch(tensors, size, rng)


def one_epoch(tensors: dict[str, Tensor], size: int, rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """Yield shuffled batches of rows of tensors that share their first axis, each row at most once.

    Raises:
        ValueError: There are fewer rows than `size`.
    """
    first = next(iter(tensors.values()))
    if len(first) < size:
        raise ValueError(f"{len(first)} people are too few for batches of {size}: lower --batch.")
    order = torch.from_numpy(rng.permutation(len(first))).to(first.device)
    for start in range(0, len(order) - size + 1, size):
        index = order[start : start + size]
        yield {key: value[index] for key, value in tensors.items()}


def unpack_structure(packed: Tensor, resolution: int = 64) -> Tensor:
    """Turn packed bits [B, n^3 / 8] uint8 (numpy.packbits order) into occupancy [B, 1, n, n, n] float32."""
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    bits = (packed.reshape(len(packed), -1, 1) >> shifts) & 1
    return bits.reshape(len(packed), 1, resolution, resolution, resolution).float()


def to_unit(images: Tensor, size: int) -> Tensor:
    """Turn uint8 [b, h, w, 3] into float [b, 3, size, size] in [-1, 1], averaging when size is smaller."""
    unit = images.movedim(-1, -3).float() / 127.5 - 1
    return unit if unit.shape[-1] == size else F.interpolate(unit, size=(size, size), mode="area")


def on_white(rgba: Tensor) -> Tensor:
    """Composite uint8 [..., 4] straight-alpha images on white; returns uint8 [..., 3]."""
    alpha = rgba[..., 3:].float() / 255
    return (rgba[..., :3].float() * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
