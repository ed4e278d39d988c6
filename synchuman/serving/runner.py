"""Runs photos one at a time on the one device; each run belongs to a session, which can stop it."""

from __future__ import annotations

import contextvars
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from synchuman.events import Cancelled, Event
from synchuman.settings import Settings

LOGGER = logging.getLogger(__name__)

MAX_WAITING = 16
TICK = 0.5  # seconds between two signs of life while a step takes long


class Pipeline(Protocol):
    """What the runner needs of `SyncHuman`."""

    def run(
        self, photo: bytes, settings: Settings, folder: Path, stop: threading.Event | None, person: int | None
    ) -> Iterator[Event]:
        """See `SyncHuman.run`."""


class Runs(Protocol):
    """What the page needs of a runner: `Runner`, or one that stands on the service."""

    @property
    def ready(self) -> bool:
        """Whether networks are loaded."""

    def run(
        self, session: str, photo: bytes, settings: Settings, person: int | None, owner: str | None
    ) -> Iterator[Event | Waiting | Tick]:
        """See `Runner.run`."""

    def cancel(self, session: str) -> bool:
        """See `Runner.cancel`."""


@dataclass(frozen=True)
class Waiting:
    """The run has not started: `ahead` runs come first, or the weights are still being read (`loading`)."""

    ahead: int
    loading: bool


@dataclass(frozen=True)
class Tick:
    """Nothing new; time goes by."""


class Busy(Exception):
    """Too many runs wait already."""


@dataclass(eq=False)
class _Job:
    photo: bytes
    settings: Settings
    person: int | None
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    reports: queue.SimpleQueue[Event | BaseException | None] = field(default_factory=queue.SimpleQueue)


class Runner:
    """Owns the pipeline and the device.

    A run happens in a thread of its own that holds the device lock from its first step to its last. So
    whatever becomes of the reader (cancelled, closed, disconnected), two runs never share the device.
    """

    def __init__(self, load: Callable[[], Pipeline], outputs: Path) -> None:
        """Start loading the pipeline in the background.

        Args:
            load: Makes the pipeline; called once, in another thread.
            outputs: Run folders are made in here.
        """
        self.outputs = outputs
        self._pipeline: Future[Pipeline] = ThreadPoolExecutor(1, "load").submit(load)
        self._device = threading.Lock()
        self._guard = threading.Lock()
        self._jobs: list[_Job] = []
        self._sessions: dict[str, _Job] = {}
        self._numbers = itertools.count(1)

    @property
    def ready(self) -> bool:
        """Whether the pipeline is loaded."""
        return self._pipeline.done()

    def run(
        self,
        session: str,
        photo: bytes,
        settings: Settings,
        person: int | None = None,
        owner: str | None = None,
    ) -> Iterator[Event | Waiting | Tick]:
        """Run a photo and tell how it goes; closing the iterator stops the run.

        A session has one run: a new one stops the one before. Who the `owner` is only matters to a runner
        that keeps its jobs (`page_mount.ServiceRunner`).

        Raises:
            Busy: MAX_WAITING runs wait already.
            Cancelled: The session stopped it.
            Exception: Whatever the pipeline raised, or why it could not be loaded.
        """
        job = self._admit(session, photo, settings, person)
        # With the context of the request: on ZeroGPU it says whose quota the run counts against.
        work, name = contextvars.copy_context().run, f"run {job.folder.name}"
        threading.Thread(target=work, args=(self._work, job), name=name, daemon=True).start()
        try:
            while True:
                try:
                    report = job.reports.get(timeout=TICK)
                except queue.Empty:
                    ahead = self._ahead(job)
                    yield Waiting(ahead, not self.ready) if ahead or not self.ready else Tick()
                    continue
                if report is None:
                    return
                if isinstance(report, BaseException):
                    raise report
                yield report
        finally:
            job.stop.set()

    def cancel(self, session: str) -> bool:
        """Ask the session's run to stop at its next step; False when it has none."""
        with self._guard:
            job = self._sessions.get(session)
        if job is None:
            return False
        job.stop.set()
        return True

    def _admit(self, session: str, photo: bytes, settings: Settings, person: int | None) -> _Job:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{next(self._numbers):04d}-{secrets.token_hex(4)}"
        job = _Job(photo, settings, person, self.outputs / name)
        with self._guard:
            if len(self._jobs) > MAX_WAITING:
                raise Busy("Many people are waiting at the moment. Please try again in a few minutes.")
            before = self._sessions.get(session)
            if before is not None:
                before.stop.set()
            self._jobs.append(job)
            self._sessions[session] = job
        return job

    def _ahead(self, job: _Job) -> int:
        with self._guard:
            return self._jobs.index(job) if job in self._jobs else 0

    def _work(self, job: _Job) -> None:
        try:
            with self._on_device(job):
                pipeline = self._pipeline.result()
                for event in pipeline.run(job.photo, job.settings, job.folder, job.stop, job.person):
                    job.reports.put(event)
        except BaseException as error:
            job.reports.put(error)
        else:
            job.reports.put(None)
        finally:
            with self._guard:
                self._jobs.remove(job)
                for session in [name for name, value in self._sessions.items() if value is job]:
                    del self._sessions[session]

    @contextmanager
    def _on_device(self, job: _Job) -> Iterator[None]:
        """Hold the device, waiting for it no longer than the job is wanted."""
        while not self._device.acquire(timeout=0.1):
            if job.stop.is_set():
                raise Cancelled("The run was stopped before it started.")
        try:
            yield
        finally:
            self._device.release()
