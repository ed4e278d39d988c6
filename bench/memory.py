"""Peak memory of the published sizes: of each part of a run, and of whole runs, resident and staged."""

from __future__ import annotations

import dataclasses

import torch
from published import PersonStage1, PersonStage2, Size
from speed import settings_of
from timing import GIB

from synchuman.placement import working_bytes
from synchuman.residency import Residency
from synchuman.settings import Settings

Row = dict[str, float]
STEPS = 4  # peak memory does not grow with them: the second step records, the third replays


def short(size: Size) -> Settings:
    """Settings of a run that reaches its peak memory."""
    return settings_of(dataclasses.replace(size, stage1_steps=STEPS, stage2_steps=STEPS))


def staged(stage1: PersonStage1, stage2: PersonStage2) -> tuple[PersonStage1, PersonStage2]:
    """Return both stages with their networks on the host but while they run."""
    residency = Residency(stage1.device, staged=True)
    first = PersonStage1(stage1.networks, stage1.config, stage1.device, stage1.dtype, residency)
    encoder = first.networks.image_encoder
    return first, PersonStage2(
        stage2.networks, stage2.config, encoder, stage1.device, stage1.dtype, residency
    )


def beside(peak: Row, size: Size, dtype: torch.dtype) -> Row:
    """GiB beside the weights: what a run took, and what the placement assumes when it is chosen."""
    assumed = working_bytes(size.stage1, size.stage2, dtype) / GIB
    return {"measured GiB": peak["allocated"] - peak["before"], "assumed GiB": assumed}
