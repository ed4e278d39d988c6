"""The service: takes jobs, has workers run them, tells how they go, forgets them in time.

Routes and page stand on this alone; nothing here knows of HTTP.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from synchuman.serving import folders
from synchuman.serving.active import ActiveJobs
from synchuman.serving.admission import Admission
from synchuman.serving.engines import build_engines
from synchuman.serving.exporting import Exporter
from synchuman.serving.feed import Feed, Message
from synchuman.serving.janitor import Janitor
from synchuman.serving.jobs import Conflict, Failure, Job, NotFound, State
from synchuman.serving.line import Line
from synchuman.serving.metrics import Metrics
from synchuman.serving.options import DataFolderError, Places, ServiceOptions
from synchuman.serving.present import present
from synchuman.serving.store import JobStore
from synchuman.serving.worker import Worker

LOGGER = logging.getLogger(__name__)

MOMENT = 1.0  # seconds that a thread has to end when all patience is over
POLL = 0.05  # seconds between two looks at the workers
MAX_LOST = 3  # machines that one job may lose


class Service:
    """One per process and data folder. All methods may be called from any thread."""

    def __init__(self, options: ServiceOptions) -> None:
        """Open the store; what an earlier process left running becomes interrupted.

        Raises:
            DataFolderError: The folder cannot be used, or another service uses it.
        """
        self.options = options
        self.limits = options.limits
        self.places = Places.make(options.data)
        self._own = FileLock(self.places.root / ".lock")
        try:
            self._own.acquire(timeout=0)
        except Timeout:
            raise DataFolderError(
                f"Another server uses {self.places.root}. End it, or give this one another folder."
            ) from None
        self.secret = self.places.secret()
        self.store = JobStore(self.places.store)
        self.metrics = Metrics(self)
        self.news = threading.Condition()
        self.closing = threading.Event()
        self._closed, self._stopping = False, 0.0
        self.active = ActiveJobs()
        self.workers = [Worker(self, engine) for engine in build_engines(options, self.places.locks)]
        self.line = Line(self)
        self.admission = Admission(self)
        self.exporter = Exporter(self)
        self.janitor = Janitor(self)
        self.janitor.recover()

    def start(self) -> None:
        """Start working."""
        for worker in self.workers:
            worker.start()
        self.janitor.start()

    def begin_shutdown(self) -> None:
        """Stop what runs (it becomes interrupted), and end the feeds of what waits, without waiting."""
        if not self.closing.is_set():
            self._stopping = time.monotonic()
        self.closing.set()
        running = {worker.job.id for worker in self.workers if worker.job is not None}
        for job_id, active in self.active.all().items():
            active.stop.set()
            if job_id not in running:
                active.feed.close()
        with self.news:
            self.news.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a job runs; takes no lock, so that a signal's handler may ask."""
        return any(worker.job is not None for worker in self.workers)

    def wait_for_runs(self, patience: float) -> None:
        """Wait until no job runs any more, at most `patience` seconds."""
        ends = time.monotonic() + patience
        while self.busy and time.monotonic() < ends:
            time.sleep(POLL)

    def close(self, patience: float = 25.0) -> None:
        """Stop working, `patience` seconds after the shutdown began at the latest, and close the store."""
        if self._closed:
            return
        self._closed = True
        self.begin_shutdown()
        ends = self._stopping + patience
        for thread in (self.janitor, *self.workers):
            if thread.is_alive():
                thread.join(max(ends - time.monotonic(), MOMENT))
        for worker in self.workers:
            worker.engine.close()
            if worker.is_alive():  # its run has lost what computes, and is written down
                worker.join(MOMENT)
        for active in self.active.all().values():
            active.feed.close()
        self.store.close()
        self._own.release()

    def free_bytes(self) -> int:
        """Return the free bytes of the disk that results are on."""
        return folders.free_bytes(self.places.jobs)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: There is none.
        """
        job = self.store.get(job_id)
        if job is None or job.doomed:
            raise NotFound("There is no such job.")
        return job

    def folder(self, job: Job) -> Path:
        """Return where a job's files are."""
        return self.places.jobs / job.id

    def files(self, job: Job) -> dict[str, Path]:
        """Return a job's files by name."""
        return folders.listed(self.folder(job))

    def cancel(self, job: Job) -> Job:
        """Stop a job: at once when it waits, at its next step when it runs.

        Raises:
            Conflict: It is over already.
        """
        while (now := self.get(job.id)).active:
            if (ended := self.finish(job.id, State.CANCELLED, only=State.QUEUED)) is not None:
                return ended
            if (stopping := self.store.change(job.id, only=[State.RUNNING], cancelled=True)) is not None:
                self.active.get(job.id).stop.set()
                return stopping
        raise Conflict(f"The job is {now.state.value} already.")

    def delete(self, job: Job) -> bool:
        """Delete a job and its files; False when it has to stop first and goes then."""
        # Without its key: the same request is a new job from now on.
        going = {"cancelled": True, "doomed": True, "idempotency_key": None}
        while (now := self.store.get(job.id)) is not None and now.active:
            if self.finish(job.id, State.CANCELLED, only=State.QUEUED) is not None:
                continue
            if self.store.change(job.id, only=[State.RUNNING], **going) is not None:
                self.active.get(job.id).stop.set()
                return False
        self.forget(job)
        return True

    def forget(self, job: Job) -> None:
        """Remove a finished job and its files."""
        # In this order a folder may be left without its job, which the janitor sweeps; never the reverse.
        self.store.remove(job.id)
        folders.remove(self.folder(job))

    def finish(
        self,
        job_id: str,
        state: State,
        result: dict[str, Any] | None = None,
        failure: Failure | None = None,
        only: State | None = None,
    ) -> Job | None:
        """Write how a job ended, keep or sweep its files, tell everybody.

        Returns:
            The job as it is now; None when it was over already, or not in the state `only`.
        """
        folder = self.places.jobs / job_id
        done = state is State.DONE
        if done:
            folders.strip(folder)
        elif only is None:  # the caller alone has the job; else it may turn out to be somebody's who runs it
            folders.remove(folder)
        now = time.time()
        job = self.store.finish(
            job_id,
            lambda finished: json.dumps({"type": f"job.{finished.state.value}", "job": present(finished)}),
            only,
            state=state,
            result=result or {},
            failure=failure,
            finished=now,
            expires=now + self.limits.keep_seconds,
            size=folders.size(folder) if done else 0,
        )
        if job is None:
            return None
        if not done:
            folders.remove(folder)
        self.line.estimator.learn(job)
        self.metrics.count(job)
        LOGGER.info("job %s %s", job.id, state.value)
        if job.doomed:
            self.forget(job)
        active = self.active.remove(job_id)
        if active is not None:
            active.feed.tell(state.value, present(job))
            active.feed.close()
        if job.webhook is not None:
            self.janitor.hurry()
        self.line.tell()
        return job

    def again(self, job: Job) -> bool:
        """Put a job that lost its machine back into the queue; False when it is to stop, or lost too many."""
        active = self.active.get(job.id)
        active.lost += 1
        if active.lost >= MAX_LOST or active.stop.is_set():
            return False
        if self.store.change(job.id, only=[State.RUNNING], state=State.QUEUED, started=None) is None:
            return False
        LOGGER.warning("job %s lost its machine and waits for another", job.id)
        with self.news:
            self.news.notify()
        self.line.tell()
        return True

    def follow(self, job: Job) -> Feed | None:
        """Return the events of an active job; None when it is over."""
        return self.active.feed(job)

    def follow_here(self, job: Job, tick: float) -> Iterator[Message | None]:
        """Yield a job's events in this thread; None after every `tick` seconds without one."""
        feed = self.follow(job)
        if feed is not None:
            yield from feed.follow_here(tick)

    def show(self, job: Job) -> dict[str, Any]:
        """Return what a user sees of a job now."""
        feed = self.follow(job)
        if feed is None or not job.active:
            return present(job)
        if job.state is State.QUEUED:
            return present(job, **self.line.place(job))
        progress = feed.newest("progress") or {}
        told = {name: progress[name] for name in ("stage", "step", "total", "stages")} if progress else None
        return present(job, progress=told, eta=progress.get("eta"))
