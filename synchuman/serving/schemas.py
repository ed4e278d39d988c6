"""The shapes of answers, for OpenAPI and for whoever reads it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from synchuman.settings import Settings

EXAMPLE_ID = "3f2b8c0d9e4a4f6b8a1c2d3e4f506172"


class JobProgress(BaseModel):
    """How far a running job is."""

    stage: str = Field(examples=["stage 1"])
    step: int = Field(examples=[4])
    total: int = Field(examples=[16])
    stages: list[str] = Field(description="All stages of this run, in their order; empty while unknown.")


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["bad_photo"])
    message: str


class JobView(BaseModel):
    """A job, as all routes, events and webhooks tell it."""

    id: str = Field(examples=[EXAMPLE_ID])
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    success: bool | None = Field(description="null while it is queued or running.")
    kind: Literal["generate", "resume", "retexture"]
    parent: str | None = Field(description="Job whose views were used.")
    created: str
    started: str | None
    finished: str | None
    expires: str | None = Field(description="Then the job and its files are deleted.")
    position: int | None = Field(description="Place in the queue; 1 is next.")
    eta: float | None = Field(description="Seconds until it is done; null while unknown.")
    progress: JobProgress | None
    cancelling: bool
    settings: Settings
    stage1_only: bool
    graceful_fallback: bool
    mode: Literal["full", "stage1_only"] | None = Field(description="What was delivered.")
    fallback: str | None = Field(description="Why Stage 1's model was delivered although more was asked for.")
    duration: float | None = Field(description="Seconds from start to end.")
    seconds: dict[str, float] = Field(description="Seconds per stage.")
    faces: int | None
    peak_memory: int | None = Field(description="Bytes.")
    bytes: int = Field(description="Size of all files.")
    warnings: list[str] = Field(description="Sentences about the photo or the result.")
    error: JobError | None
    outputs: dict[str, str] = Field(description="Addresses: glb, views, archive.")
    links: dict[str, str]


class JobPage(BaseModel):
    """Some jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="Address of the next page.")


class JobFile(BaseModel):
    """A file of a job."""

    name: str = Field(examples=["SecondStage/output.glb"])
    bytes: int
    media_type: str = Field(examples=["model/gltf-binary"])
    url: str


class JobFiles(BaseModel):
    """The files of a job."""

    files: list[JobFile]


class ExportOffer(BaseModel):
    """A kind of file that a finished job can be had as."""

    format: str = Field(examples=["usdz"])
    title: str = Field(examples=["USDZ"])
    text: str = Field(description="What it is good for.")
    file: str = Field(examples=["person.usdz"])
    media_type: str = Field(examples=["model/vnd.usdz+zip"])
    textures: list[str] = Field(
        description="Values of `texture`, the default first; empty where it has none."
    )
    height: bool = Field(description="Whether `height` can be chosen.")
    ready: bool = Field(description="Whether it was made already, in its default.")
    unavailable: str | None = Field(description="Why it cannot be made of this job.")
    url: str


class ExportOffers(BaseModel):
    """All kinds of files that a finished job can be had as."""

    exports: list[ExportOffer]


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """One condition for taking jobs."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Whether jobs are taken and will run."""

    ready: bool
    checks: dict[str, Check]


class Info(BaseModel):
    """What this service is and can do."""

    app: str
    version: str
    variant: str
    workers: list[dict[str, Any]]
    presets: dict[str, dict[str, Any]]
    settings: dict[str, Any] = Field(description="JSON schema of the settings: bounds, defaults, texts.")
    limits: dict[str, float]
    features: dict[str, Any] = Field(description="true, or why it is off.")
    you: str


class WebhookSecret(BaseModel):
    """The key with which your webhooks are signed (standardwebhooks.com)."""

    secret: str
