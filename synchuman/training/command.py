"""The command line every trainer shares."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from synchuman.training import ranks
from synchuman.training.loop import LoopConfig

SEEDS_APART = 1_000_003  # of the processes that train together


@dataclass(frozen=True)
class Leg:
    """One leg of training.

    Attributes:
        people: Folder of generated people.
        out: Folder of all checkpoints; each trainer has a sub-folder.
        device: Where to train.
        batch: People a step; None for the trainer's own default.
        limit: Read at most that many people.
        loop: Budgets and rates.
    """

    people: Path
    out: Path
    device: torch.device
    batch: int | None
    limit: int | None
    loop: LoopConfig


def run_leg(run: Callable[[Leg], None], description: str) -> None:
    """Parse the command line and run a leg, in as many processes as torchrun started."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=Path, default=Path("training-data/people"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--limit", type=int)
    for field in fields(LoopConfig):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    loop = LoopConfig(**{field.name: getattr(options, field.name) for field in fields(LoopConfig)})
    with ranks.joined(torch.device(options.device)) as device:
        loop = replace(loop, seed=loop.seed + SEEDS_APART * ranks.rank())
        run(Leg(options.people, options.out, device, options.batch, options.limit, loop))
