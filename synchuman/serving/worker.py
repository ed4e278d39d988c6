"""One thread per device: takes the next job, has the engine run it, writes how it ended."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError

from synchuman.serving import folders
from synchuman.serving.admission import CANNOT_START
from synchuman.serving.engine import Engine, EngineBroken, EngineLost, Outcome
from synchuman.serving.jobs import Failure, Job, State

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore
    from synchuman.serving.turns import Estimator

LOGGER = logging.getLogger(__name__)

IDLE = 1.0  # seconds between two looks at an idle engine
PATIENCE = 2  # failed starts in a row, after which waiting jobs are told so
LONGEST_PAUSE = 60.0  # seconds between two tries to start
WRITES = 10  # tries to write how a job ended, a second apart


class Worker(threading.Thread):
    """Runs jobs on one device, one at a time, until the service closes."""

    def __init__(self, service: ServiceCore, engine: Engine) -> None:
        """Work for a service with an engine of its own."""
        super().__init__(name=f"worker {engine.device}", daemon=True)
        self.service = service
        self.engine = engine
        self.job: Job | None = None
        self._eta: float | None = None
        self._eta_at = 0.0

    def run(self) -> None:
        """Work."""
        service, failures = self.service, 0
        while not service.closing.is_set():
            try:
                self.engine.start(service.closing)
                failures = 0
            except EngineBroken as error:
                if service.closing.is_set():
                    return
                failures += 1
                LOGGER.error("the worker on %s does not start: %s", self.engine.device, error)
                if failures >= PATIENCE:
                    self._give_up()
                service.closing.wait(min(2.0**failures, LONGEST_PAUSE))
                continue
            try:
                self.job = service.store.claim()
            except OperationalError as error:
                LOGGER.error("no job could be taken: %s", error.orig)
                service.closing.wait(IDLE)
                continue
            if self.job is None:
                with service.news:
                    service.news.wait(IDLE)
                continue
            self._work(self.job)
            self.job = None

    def seconds_left(self, estimator: Estimator) -> float | None:
        """Return in how many seconds the device is free; None when that is not known."""
        job = self.job
        if job is None:
            return 0.0
        if self._eta is not None:
            return max(self._eta - (time.monotonic() - self._eta_at), 0.0)
        expected = estimator.expect(job)
        return None if expected is None else max(expected - (time.time() - (job.started or 0.0)), 0.0)

    def _work(self, job: Job) -> None:
        service = self.service
        active = service.active.get(job.id)
        if job.cancelled:
            active.stop.set()
        self._eta = None
        active.feed.tell("running", {})
        service.line.tell()

        def report(name: str, data: dict[str, Any]) -> None:
            if name == "progress" and data["eta"] is not None:
                self._eta, self._eta_at = data["eta"], time.monotonic()
            if name in ("cutout", "coarse"):
                data = {"url": f"/jobs/{job.id}/files/{data['file']}"}
            if name == "views":
                urls = {k: [f"/jobs/{job.id}/files/{file}" for file in v] for k, v in data["files"].items()}
                data = {"final": data["final"], **urls}
            active.feed.tell(name, data)

        try:
            outcome = self.engine.run(job, service.folder(job), active.stop, report)
        except EngineLost as error:
            if service.again(job):
                return
            stopped = active.stop.is_set()
            failure = None if stopped else Failure("worker_died", str(error))
            outcome = Outcome(State.CANCELLED if stopped else State.FAILED, failure=failure)
        except Exception:
            LOGGER.exception("job %s broke its worker", job.id)
            self.engine.close()
            failure = Failure("internal", "Something went wrong on our side. Please try again.")
            outcome = Outcome(State.FAILED, failure=failure)
        self._write(job, outcome)

    def _write(self, job: Job, outcome: Outcome) -> None:
        """Write how a job ended; on a full disk its files go first, then the words fit."""
        service, state = self.service, outcome.state
        if state is State.CANCELLED and service.closing.is_set():
            now = service.store.get(job.id)
            state = State.CANCELLED if now is not None and now.cancelled else State.INTERRUPTED
        result, failure = outcome.result, outcome.failure
        for _ in range(WRITES):
            try:
                service.finish(job.id, state, result, failure)
                return
            except OperationalError as error:
                LOGGER.error("the end of job %s could not be written: %s", job.id, error.orig)
                folders.remove(service.folder(job))
                state, result = State.FAILED, {}
                failure = Failure("disk_full", "The disk of the server is full. Please try again later.")
                service.closing.wait(1.0)

    def _give_up(self) -> None:
        """Fail what waits, when no worker can run it: nobody should wait for ever."""
        service = self.service
        if not all(worker.engine.broken for worker in service.workers):
            return
        for job in service.store.with_state(State.QUEUED):
            service.finish(job.id, State.FAILED, failure=Failure("not_ready", CANNOT_START))
