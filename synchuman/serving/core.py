"""What the parts of the service know of it: its state and a few verbs, so that none imports the whole."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from synchuman.serving.active import ActiveJobs
from synchuman.serving.engine import Engine
from synchuman.serving.jobs import Failure, Job, State
from synchuman.serving.options import Limits, Places, ServiceOptions
from synchuman.serving.store import JobStore
from synchuman.serving.turns import Estimator


class Device(Protocol):
    """A worker, as others see it."""

    engine: Engine
    job: Job | None

    def seconds_left(self, estimator: Estimator) -> float | None:
        """Return in how many seconds the device is free; None when that is not known."""


class Queue(Protocol):
    """The line of jobs, as others see it."""

    def places(self) -> dict[str, dict[str, Any]]:
        """Return position and ETA of every queued job by its id."""

    def tell(self) -> None:
        """Tell those who wait where they are."""


class Counters(Protocol):
    """The metrics, as others see them."""

    def webhook(self, delivered: bool) -> None:
        """Count a call."""


class ServiceCore(Protocol):
    """The service, as its parts see it; `service.Service` is the one there is."""

    options: ServiceOptions
    limits: Limits
    places: Places
    secret: bytes
    store: JobStore
    active: ActiveJobs
    news: threading.Condition
    closing: threading.Event

    @property
    def workers(self) -> Sequence[Device]:
        """One per device."""

    @property
    def line(self) -> Queue:
        """The jobs that wait."""

    @property
    def metrics(self) -> Counters:
        """What is counted."""

    def free_bytes(self) -> int:
        """Return the free bytes of the disk that results are on."""

    def get(self, job_id: str) -> Job:
        """Return a job; NotFound when there is none."""

    def folder(self, job: Job) -> Path:
        """Return where a job's files are."""

    def forget(self, job: Job) -> None:
        """Remove a finished job and its files."""

    def finish(
        self,
        job_id: str,
        state: State,
        result: dict[str, Any] | None = None,
        failure: Failure | None = None,
        only: State | None = None,
    ) -> Job | None:
        """Write how a job ended, keep or sweep its files, tell everybody."""

    def again(self, job: Job) -> bool:
        """Put a job that lost its machine back into the queue."""
