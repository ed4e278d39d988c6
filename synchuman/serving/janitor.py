"""Keeps house: takes up what an earlier process left, deletes results in time, sends webhooks."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from synchuman.serving import folders
from synchuman.serving.jobs import FINISHED, PHOTO, Failure, Kind, State
from synchuman.serving.webhook import Caller

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore

LOGGER = logging.getLogger(__name__)

ROUND = 30.0  # seconds between two rounds
SETTLED = 600.0  # seconds after which a folder without a job, or a temporary file, is nobody's


class Janitor(threading.Thread):
    """One thread that tidies up; never in the way of jobs."""

    def __init__(self, service: ServiceCore) -> None:
        """Work for a service."""
        super().__init__(name="janitor", daemon=True)
        self.service = service
        self._caller = Caller(service)
        self._hurry = threading.Event()

    def run(self) -> None:
        """Work."""
        while True:
            self._hurry.clear()
            # Asked after that: whoever closes the service sets this first, then calls for a hurry.
            if self.service.closing.is_set():
                return
            try:
                pause = self._caller.send_due()
                self.tidy()
            except (OSError, OperationalError) as error:
                LOGGER.error("tidying up failed: %s", error)
                pause = ROUND
            self._hurry.wait(min(pause, ROUND))

    def hurry(self) -> None:
        """Start the next round now."""
        self._hurry.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the last round."""
        self._hurry.set()
        if self.is_alive():
            super().join(timeout)

    def recover(self) -> None:
        """Bring store and folders together after a process ended in whatever way."""
        service = self.service
        for job in service.store.with_state(State.RUNNING):
            service.finish(job.id, State.CANCELLED if job.cancelled else State.INTERRUPTED)
        for job in service.store.with_state(State.FAILED, State.CANCELLED, State.INTERRUPTED):
            folders.remove(service.folder(job))
        for job in service.store.with_state(State.QUEUED):
            folder = service.folder(job)
            needed = folder / PHOTO if job.request.kind is Kind.GENERATE else folder / folders.FIRST_STAGE
            if needed.exists():
                service.active.add(job)
            else:
                lost = Failure(
                    "files_lost", "The photo was lost while the server was down. Please send it again."
                )
                service.finish(job.id, State.FAILED, failure=lost)
        self._sweep(0.0)

    def tidy(self) -> None:
        """Delete what is too old, then the oldest results while all take too much room, then orphans."""
        service, now = self.service, time.time()
        finished = sorted(service.store.with_state(*FINISHED), key=lambda job: job.finished or 0.0)
        kept = sum(job.size for job in finished)
        for job in finished:
            expired = job.expires is not None and job.expires <= now
            if expired or (kept > service.limits.max_kept and job.size):
                service.forget(job)
                kept -= job.size
                LOGGER.info("job %s deleted: %s", job.id, "its time is over" if expired else "no room")
        self._sweep(SETTLED)

    def _sweep(self, age: float) -> None:
        service = self.service
        newest = time.time() - age
        for entry in service.places.jobs.iterdir():
            if entry.lstat().st_mtime <= newest and service.store.get(entry.name) is None:
                folders.remove(entry)
                LOGGER.info("a folder without a job was removed")
        for entry in service.places.temporary.iterdir():
            if entry.lstat().st_mtime <= newest:
                entry.unlink(missing_ok=True)
