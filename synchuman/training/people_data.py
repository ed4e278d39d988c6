"""Reading generated people back for training: shards on disk, batches in memory."""

from __future__ import annotations

from collections.abc import Iterator
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

    Raises:
        FileNotFoundError: No shards; the message says which command makes them.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        shards = sorted(folder.glob("people-*.npz"))
        if not shards:
            raise FileNotFoundError(
                f"No people in {folder}: run `python -m synchuman.training.people.generate --out {folder}`."
            )
        parts: dict[str, list[Tensor]] = {}
        count = 0
        for shard in shards:
            with np.load(shard) as arrays:
                for key in KEYS:
                    parts.setdefault(key, []).append(torch.from_numpy(arrays[key]))
            count += len(parts["colors"][-1])
            if limit is not None and count >= limit:
                break
        self.tensors = {key: torch.cat(values)[:limit] for key, values in parts.items()}

    def __len__(self) -> int:
        return len(self.tensors["colors"])

    def batches(self, keys: tuple[str, ...], size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield endless shuffled batches of the named tensors."""
        rng = np.random.default_rng(seed)
        while True:
            order = torch.from_numpy(rng.permutation(len(self)))
            for start in range(0, len(order) - size + 1, size):
                index = order[start : start + size]
                yield {key: self.tensors[key][index] for key in keys}


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
