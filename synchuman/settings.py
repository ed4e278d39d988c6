"""Settings of a run: every knob with its bounds and text, for page, service, command line, metadata."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**31 - 1


class Settings(BaseModel):
    """What a user may choose for a run; out-of-bounds values raise `pydantic.ValidationError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage1_steps: int = Field(
        10,
        ge=1,
        le=100,
        title="Stage 1 steps",
        description="Sampling steps of the views and the 3D structure. More is slower and finer.",
    )
    guidance: float = Field(
        2.0,
        ge=1.0,
        le=10.0,
        title="Guidance",
        description="How strictly the views follow the photo. 1 is off (and twice as fast).",
    )
    stage2_steps: int = Field(
        12,
        ge=1,
        le=100,
        title="Stage 2 steps",
        description="Sampling steps of the fine surface. More is slower and finer.",
    )
    stage2_guidance: float = Field(
        1.0,
        ge=1.0,
        le=10.0,
        title="Stage 2 guidance",
        description="How strictly the fine surface follows the photo. 1 is off (and nearly twice as fast).",
    )
    solver: Literal["euler", "multistep"] = Field(
        "euler",
        title="Solver",
        description="`euler` is the published method's; with guidance, `multistep` comes nearer to its "
        "result in few steps.",
    )
    seed: int = Field(
        43,
        ge=0,
        le=MAX_SEED,
        title="Seed",
        description="The same photo, settings and seed give the same person again.",
    )
    matting: Literal["offline", "u2net_human_seg", "isnet-general-use", "birefnet-portrait"] = Field(
        "offline",
        title="Background removal",
        description="`offline` ships with the app; the others are downloaded when first chosen.",
    )
    faces: int = Field(
        30_000,
        ge=1_000,
        le=200_000,
        title="Faces",
        description="Triangles of the exported mesh.",
    )
    texture_size: int = Field(
        2048,
        ge=256,
        le=4096,
        multiple_of=256,
        title="Texture size",
        description="Side of the colour texture in texels.",
    )
