"""Loads the networks that an engine computes with, and tells how that goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from synchuman.events import Progress

if TYPE_CHECKING:
    import torch

    from synchuman.pipeline import SyncHuman
    from synchuman.serving.runner import Tell

LOADING_PAUSE = 1.0  # seconds between two words on a download


def load_pipeline(
    variant: str,
    device: str,
    dtype: str,
    placement: str = "auto",
    stage2_device: str | None = None,
    report: Callable[[Progress], None] = lambda event: None,
) -> tuple[SyncHuman, dict[str, Any]]:
    """Load networks as `SyncHuman.load`, ready to run; return them with what is to be told of them."""
    from synchuman.photo import warm_up
    from synchuman.pipeline import SyncHuman

    pipeline = SyncHuman.load(variant, device, dtype, placement, stage2_device, report)
    warm_up()
    about = {
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "gpu": _gpu_name(pipeline.device),
        "stage2": pipeline.stage2 is not None,
        "structure_decoder": pipeline.stage1.networks.structure_decoder is not None,
    }
    return pipeline, about


def loading_teller(tell: Tell) -> Callable[[Progress], None]:
    """Return what reports how loading goes; a download reports every chunk, its readers look now and then."""
    told = 0.0

    def report(event: Progress) -> None:
        nonlocal told
        if event.step in (0, event.total) or time.monotonic() - told > LOADING_PAUSE:
            told = time.monotonic()
            tell("loading", stage=event.stage, step=event.step, total=event.total, eta=event.eta)

    return report


def _gpu_name(device: torch.device) -> str | None:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
