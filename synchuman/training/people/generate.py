"""Generate shards of training samples, resumable.

`python -m synchuman.training.people.generate --count N --first-seed S --out training-data/people --workers 2`

A shard is `people-<first seed>-<count>-<size>.npz` (uncompressed) with the arrays of `render_sample`, stacked
along a first axis, and `seeds` [n]. Shards that exist are kept.
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
SHARD = 128


def shard_path(out: Path, first: int, count: int, size: int) -> Path:
    """File of the shard that starts at seed `first`."""
    return out / f"people-{first:09d}-{count}-{size}.npz"


def make_shard(first_and_count: tuple[int, int], out: Path, size: int, device: str, body_file: Path) -> Path:
    """Render one shard and write it whole or not at all."""
    import torch

    from synchuman.training.people.sample import render_sample

    torch.set_num_threads(1)
    first, count = first_and_count
    path = shard_path(out, first, count, size)
    if path.exists():
        return path
    samples = [render_sample(seed, size, device, body_file) for seed in range(first, first + count)]
    arrays: dict[str, Any] = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.savez(file, seeds=np.arange(first, first + count), **arrays)
    temporary.replace(path)
    return path


def generate(
    count: int,
    first_seed: int,
    out: Path,
    size: int = 192,
    workers: int = 1,
    device: str = "cpu",
    body_file: Path = BODY_FILE,
) -> Iterator[Path]:
    """Make the shards for `count` people from `first_seed` on; yields each as soon as it is there."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (first, min(SHARD, first_seed + count - first))
        for first in range(first_seed, first_seed + count, SHARD)
    ]
    work = partial(make_shard, out=out, size=size, device=device, body_file=body_file)
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
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    for path in generate(
        args.count, args.first_seed, args.out, args.size, args.workers, args.device, args.body
    ):
        LOGGER.info("%.0f s: %s", time.perf_counter() - start, path.name)


if __name__ == "__main__":
    main()
