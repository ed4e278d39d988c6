"""A job: what was asked, how far it is, what came out; and the ways in which a request can go wrong."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict

from synchuman.settings import Settings

PHOTO = "photo.png"  # in a job's folder while it waits and runs


class State(str, Enum):
    """Where a job is in its life; the first two go on by themselves, the others are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


ACTIVE = frozenset({State.QUEUED, State.RUNNING})
FINISHED = frozenset(State) - ACTIVE


class Kind(str, Enum):
    """What a job does: the whole way, Stage 2 from the views of an earlier job, or only a new texture."""

    GENERATE = "generate"
    RESUME = "resume"
    RETEXTURE = "retexture"


class JobRequest(BaseModel):
    """What a user asked for, checked.

    Attributes:
        kind: What to do.
        settings: Of the run.
        stage1_only: Stop after Stage 1; the model is built from its views and structure.
        graceful_fallback: When Stage 2 fails, deliver Stage 1's model and say so, instead of failing.
        person: Whom to take of several people, an index, largest first.
        parent: Job whose views are used (resume, retexture).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Kind.GENERATE
    settings: Settings
    stage1_only: bool = False
    graceful_fallback: bool = False
    person: int | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Failure:
    """Why a job failed: `code` for programs, `message` for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Job:
    """One job as the store knows it.

    Attributes:
        id: 128 random bits in hex; whoever guesses it would read the job, so nobody can.
        owner: Whose it is.
        state: Where it is.
        request: What was asked.
        created: Seconds since the epoch, as all times here.
        started: When a worker took it.
        finished: When it ended.
        expires: When it is deleted; None while it is active.
        result: What came out (see `worker.Outcome`).
        failure: Why it failed.
        size: Bytes of its folder, once finished.
        cancelled: Whether its user asked to stop it.
        doomed: Whether it is to be deleted as soon as it has stopped.
        webhook: Address to tell when it ends.
        idempotency_key: The user's key for this request.
        fingerprint: Hash of the request and its photo, to tell a repeated request from another one.
    """

    owner: str
    request: JobRequest
    created: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = State.QUEUED
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    size: int = 0
    cancelled: bool = False
    doomed: bool = False
    webhook: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


class ServiceError(Exception):
    """A request that cannot be served; `status` is HTTP's, `code` for programs, the message for people."""

    status = 400
    code = "bad_request"
    retry_after: float | None = None


class NotFound(ServiceError):
    """There is no such job, or it is somebody else's: the answer is the same."""

    status, code = 404, "not_found"


class Conflict(ServiceError):
    """The job is not in a state for that."""

    status, code = 409, "conflict"


class QueueFull(ServiceError):
    """Too many jobs wait."""

    status, code, retry_after = 429, "queue_full", 30.0


class DiskFull(ServiceError):
    """There is no room for another job."""

    status, code, retry_after = 507, "disk_full", 300.0


class NotReady(ServiceError):
    """The worker cannot run anything at the moment."""

    status, code, retry_after = 503, "not_ready", 10.0


class KeyReused(ServiceError):
    """An idempotency key came with another request than the first time."""

    status, code = 422, "idempotency_key_reused"
