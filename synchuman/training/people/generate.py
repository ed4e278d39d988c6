"""Generate shards of training samples, resumable.

`python -m synchuman.training.people.generate --count N --first-seed S --out training-data/people --workers 2`

A shard is `people-<first seed>-<count>-<size>.npz` (uncompressed) with the arrays of `render_sample`, stacked
along a first axis, and `seeds` [n]. With `--surface`, `surface-<first seed>-<count>-<size>.npz` beside it has
the arrays of `surface_targets`, of all people one after another, `voxel_counts` int32 [n] and `seeds`. Shards
that exist (with `--surface`: both files) are kept. With `--outfits` some people wear clothes from
that folder or archive of MakeHuman clothes; the others are the same as without.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from synchuman.training.people.person import BODY_FILE

LOGGER = logging.getLogger(__name__)
SHARD = 32


def shard_path(out: Path, first: int, count: int, size: int) -> Path:
    """File of the shard that starts at seed `first`."""
    return out / f"people-{first:09d}-{count}-{size}.npz"


def surface_path(people: Path) -> Path:
    """File of the surface targets that belong to a shard."""
    return people.with_name(people.name.replace("people-", "surface-", 1))


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an uncompressed npz whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def make_shard(
    first_and_count: tuple[int, int],
    out: Path,
    size: int,
    device: str,
    body_file: Path,
    surface: bool = False,
    outfits: Path | None = None,
) -> Path:
    """Render one shard and write each of its files whole or not at all; returns the people's file."""
    import torch

    from synchuman.training.people.sample import render_sample
    from synchuman.training.people.surface_targets import TARGETS

    torch.set_num_threads(1)
    first, count = first_and_count
    path = shard_path(out, first, count, size)
    beside = surface_path(path)
    if path.exists() and (beside.exists() or not surface):
        return path
    seeds = np.arange(first, first + count)
    samples = [render_sample(int(seed), size, device, body_file, surface, outfits) for seed in seeds]
    if surface:
        counts = np.array([len(sample["voxels"]) for sample in samples], np.int32)
        targets: dict[str, Any] = {
            name: np.concatenate([sample.pop(name) for sample in samples]) for name in TARGETS
        }
        write_arrays(beside, {"seeds": seeds, "voxel_counts": counts, **targets})
    arrays: dict[str, Any] = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    write_arrays(path, {"seeds": seeds, **arrays})
    return path


def generate(
    count: int,
    first_seed: int,
    out: Path,
    size: int = 192,
    workers: int = 1,
    device: str = "cpu",
    body_file: Path = BODY_FILE,
    surface: bool = False,
    outfits: Path | None = None,
) -> Iterator[Path]:
    """Make the shards for `count` people from `first_seed` on; yields each as soon as it is there."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (first, min(SHARD, first_seed + count - first))
        for first in range(first_seed, first_seed + count, SHARD)
    ]
    work = partial(
        make_shard,
        out=out,
        size=size,
        device=device,
        body_file=body_file,
        surface=surface,
        outfits=outfits,
    )
    if workers <= 1:
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(work, jobs)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("training-data/people"))
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--body", type=Path, default=BODY_FILE)
    parser.add_argument("--surface", action="store_true", help="also write the surface targets")
    parser.add_argument("--outfits", type=Path, help="folder or .tgz of MakeHuman clothes that some wear")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    for path in generate(
        args.count,
        args.first_seed,
        args.out,
        args.size,
        args.workers,
        args.device,
        args.body,
        args.surface,
        args.outfits,
    ):
        LOGGER.info("%.0f s: %s", time.perf_counter() - start, path.name)


if __name__ == "__main__":
    main()
