"""Loads a variant: finds or downloads its weights, decides where they go, and puts them there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from synchuman.events import DeviceMemoryError, Progress
from synchuman.image_encoder import ImageEncoderConfig, build_image_encoder
from synchuman.placement import choose_devices, choose_dtype, choose_residency, working_bytes
from synchuman.residency import Residency, free_memory
from synchuman.stage1.networks import blank_networks, find_network, load_config
from synchuman.stage1.stage1 import Stage1
from synchuman.stage2.networks import blank_stage2, load_stage2_config
from synchuman.stage2.stage2 import Stage2
from synchuman.weights.load import blank, count_bytes, fill
from synchuman.weights.published import PublishedFolder
from synchuman.weights.variants import find_variant, pull_official

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

LOGGER = logging.getLogger(__name__)

MIB = 2**20
DOWNLOAD, READ = "download", "weights"  # stages of `Progress` while a variant loads

# Told what goes on: Progress with stage "download" (in MiB), then "weights".
Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Loaded:
    """A variant on its devices; `stage2` is None where the variant has none."""

    stage1: Stage1
    stage2: Stage2 | None
    folder: Path
    device: torch.device
    dtype: torch.dtype


def load_variant(
    variant: str,
    device: str = "auto",
    dtype: str = "auto",
    placement: str = "auto",
    stage2_device: str | None = None,
    report: Report = lambda event: None,
) -> Loaded:
    """Load a variant, see `SyncHuman.load`."""
    first, second = choose_devices(device, stage2_device)
    number = choose_dtype(dtype, first)
    # A name that is wrong is told before anything is downloaded.
    choose_residency(placement, first, 0)
    folder = find_variant(variant) or pull_official(download_report(report))
    report(Progress(READ, 0, 1))
    LOGGER.info("loading %s on %s and %s as %s", folder, first, second, number)
    needed = _needed_bytes(folder, number, apart=first != second)
    residencies = [choose_residency(placement, on, bytes_) for on, bytes_ in zip((first, second), needed)]
    if first == second:
        residencies[1] = residencies[0]
    try:
        stages = _load(folder, number, *residencies)
    except torch.OutOfMemoryError as error:
        if placement == "resident" or all(residency.staged for residency in residencies):
            raise DeviceMemoryError(f"The weights do not fit on the device: {error}") from None
        stages = None
    if stages is None:
        # Outside of the handler, where the error would still hold what was loaded.
        free_memory(first)
        free_memory(second)
        staged = Residency(first, staged=True)
        stages = _load(folder, number, staged, staged if first == second else Residency(second, True))
    stage1, stage2 = stages
    report(Progress(READ, 1, 1))
    return Loaded(stage1, stage2, folder, first, number)


def download_report(report: Report, stage: str = DOWNLOAD) -> Callable[[str, int, int], None]:
    """Return what a download reports its bytes to, which makes events of it: mebibytes, seconds left."""
    began: list[tuple[float, int]] = []

    def tell(name: str, done: int, total: int) -> None:
        if not began:
            began.append((time.monotonic(), done))
        start, before = began[0]
        rate = (done - before) / max(time.monotonic() - start, 1e-3)
        eta = (total - done) / rate if rate > 0 else None
        report(Progress(stage, done // MIB, max(total // MIB, 1), eta))

    return tell


def _needed_bytes(folder: Path, dtype: torch.dtype, apart: bool) -> tuple[int, int]:
    """Return the bytes that Stage 1 and Stage 2 take when they stay; both together unless they are apart."""
    config1, config2 = load_config(folder), load_stage2_config(folder)
    networks = blank_networks(config1, dtype)
    first = sum(map(count_bytes, networks.modules().values()))
    second = 0
    if config2 is not None:
        second = sum(map(count_bytes, blank_stage2(config2, dtype).modules().values()))
    working = working_bytes(config1, config2, dtype)
    if not apart:
        return first + second + working, first + second + working
    return first + working, second + count_bytes(networks.image_encoder) + working


def _load(
    folder: Path, dtype: torch.dtype, first: Residency, second: Residency
) -> tuple[Stage1, Stage2 | None]:
    stage1 = Stage1.load(folder, first.device, dtype, first)
    encoder = stage1.networks.image_encoder
    if first is not second and load_stage2_config(folder) is not None:
        # Stage 2 needs the encoder, too: on two devices there are two of it.
        encoder = _load_encoder(folder, stage1.config.image_encoder, second.load_device, dtype)
    return stage1, Stage2.load(folder, encoder, second.device, dtype, second)


def _load_encoder(
    folder: Path, config: ImageEncoderConfig, device: torch.device, dtype: torch.dtype
) -> Dinov2WithRegistersModel:
    with blank():
        encoder = build_image_encoder(config)
    torch.nn.Module.to(encoder, dtype=dtype).eval()
    published = PublishedFolder.find(folder)
    name = "image_encoder"
    fill(encoder, find_network(folder, name) if published is None else published.weights(name), device)
    return encoder
