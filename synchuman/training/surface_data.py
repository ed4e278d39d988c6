"""Reading people with surface targets back for training: sparse voxels, what is in them, and their views."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LOGGER = logging.getLogger(__name__)
VOXEL_KEYS = ("voxels", "occupied", "sdf", "cell_normal", "cell_offset", "cell_color", "cell_valid")
TARGET_KEYS = VOXEL_KEYS[2:]
IMAGE_KEYS = ("colors", "normals", "token")
MOST_EXTRA = 0.6  # share of the empty neighbours that a person may get
MOST_DROPPED = 0.03  # share of the occupied voxels that a person may lose
DEVICE_SHARE = 0.5  # of the free device memory that the shards' files may be as large as


class SurfacePeople:
    """Generated people with surface targets, all in memory in the integers they are stored in.

    Args:
        folder: Folder of `people-*.npz` shards and their siblings `surface-*.npz`; others are skipped.
        limit: Read at most that many people.
        device: Where everything is put once if it takes at most half of the free memory; else it stays on
            the CPU and only batches travel.

    Attributes:
        images: Per `IMAGE_KEYS` [n, ...] uint8.
        targets: Per `VOXEL_KEYS` [m, ...], the voxels of all people one after another.
        starts: [n + 1] int64 on the CPU, where each person's voxels start.

    Raises:
        FileNotFoundError: No surface targets; the message says which command makes them.
        ValueError: A shard and its sibling are of different people.
    """

    def __init__(self, folder: Path, limit: int | None = None, device: torch.device | None = None) -> None:
        # A shard's people are written last: targets without them are still being made.
        shards = [path for path in sorted(folder.glob("surface-*.npz")) if _people_of(path).exists()]
        if not shards:
            raise FileNotFoundError(
                f"No surface targets in {folder}: make people by"
                f" `python -m synchuman.training.people.generate --surface --out {folder}`."
            )
        parts: dict[str, list[Tensor]] = {key: [] for key in (*IMAGE_KEYS, *VOXEL_KEYS)}
        counts: list[np.ndarray] = []
        if limit is not None:
            shards = _enough(shards, limit)
        size = sum(path.stat().st_size for shard in shards for path in (shard, _people_of(shard)))
        place = _place(size, device or torch.device("cpu"))
        read = 0
        for shard in shards:
            counts.append(_read_shard(shard, parts, None if limit is None else limit - read, place))
            read += len(counts[-1])
        joined = {key: torch.cat(parts.pop(key)) for key in tuple(parts)}
        self.images = {key: joined[key] for key in IMAGE_KEYS}
        self.targets = {key: joined[key] for key in VOXEL_KEYS}
        self.starts = torch.from_numpy(np.concatenate([[0], *counts]).astype(np.int64)).cumsum(0)
        LOGGER.info("%d people with surface targets on %s", read, place)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.targets["voxels"].device

    def rows(self, people: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the people's voxels and the sample each belongs to, [k] int64 each.

        Args:
            people: [b] int64 on the CPU.
        """
        start, size = self.starts[people], self.starts[people + 1] - self.starts[people]
        total = int(size.sum())
        first = start - (size.cumsum(0) - size)
        first, size = first.to(self.device), size.to(self.device)
        order = torch.arange(len(people), device=self.device)
        sample = torch.repeat_interleave(order, size, output_size=total)
        return torch.arange(total, device=self.device) + first[sample], sample

    def take(self, people: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return a batch.

        Args:
            people: [b] int64 on the CPU.
            generator: Random source on the data's device. Every person gets all occupied voxels but 0 to 3 %
                and 0 to 60 % of their empty neighbours, as sampled structures are noisy; None for just the
                occupied ones.

        Returns:
            `coords` [k, 4] int64 (sample, x, y, z), the targets of `TARGET_KEYS` [k, ...] and the images of
            `IMAGE_KEYS` [b, ...].
        """
        rows, sample = self.rows(people)
        occupied = self.targets["occupied"][rows]
        if generator is None:
            keep = occupied
        else:
            draw = torch.rand(len(rows), generator=generator, device=self.device)
            share = torch.rand(2, len(people), generator=generator, device=self.device)
            extra, dropped = MOST_EXTRA * share[0, sample], MOST_DROPPED * share[1, sample]
            keep = torch.where(occupied, draw >= dropped, draw < extra)
        kept = keep.nonzero()[:, 0]
        rows, sample = rows[kept], sample[kept]
        voxels = self.targets["voxels"][rows].long()
        batch = {"coords": torch.cat([sample[:, None], voxels], dim=1)}
        batch |= {key: self.targets[key][rows] for key in TARGET_KEYS}
        index = people.to(self.device)
        return batch | {key: images[index] for key, images in self.images.items()}

    def batches(self, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield endless shuffled batches with augmented voxels.

        Raises:
            ValueError: There are fewer people than `size`.
        """
        if size > len(self):
            raise ValueError(f"{len(self)} people are too few for batches of {size}: lower --batch.")
        rng = np.random.default_rng(seed)
        generator = torch.Generator(device=self.device).manual_seed(seed)
        while True:
            order = torch.from_numpy(rng.permutation(len(self)))
            for start in range(0, len(order) - size + 1, size):
                yield self.take(order[start : start + size], generator)


def _people_of(shard: Path) -> Path:
    return shard.with_name(shard.name.replace("surface-", "people-", 1))


def _enough(shards: list[Path], limit: int) -> list[Path]:
    """Return the first shards that hold so many people by their names, or all."""
    held = np.cumsum([int(shard.name.split("-")[2]) for shard in shards])
    return shards[: int(np.searchsorted(held, limit)) + 1]


def _read_shard(
    shard: Path, parts: dict[str, list[Tensor]], limit: int | None, device: torch.device
) -> np.ndarray:
    """Append a shard's first people to the parts; returns their voxel counts."""
    people = _people_of(shard)
    with np.load(shard) as surface, np.load(people) as images:
        if not np.array_equal(surface["seeds"], images["seeds"]):
            raise ValueError(f"{shard.name} and {people.name} are of different people: make the former anew.")
        counts = surface["voxel_counts"][:limit]
        voxels = int(counts.sum())
        for key in VOXEL_KEYS:
            parts[key].append(torch.from_numpy(surface[key][:voxels]).to(device))
        for key in IMAGE_KEYS:
            parts[key].append(torch.from_numpy(images[key][: len(counts)]).to(device))
    return counts


def _place(size: int, device: torch.device) -> torch.device:
    if device.type != "cuda" or size < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    LOGGER.info("people are too many for the device's memory: they stay on the CPU")
    return torch.device("cpu")
