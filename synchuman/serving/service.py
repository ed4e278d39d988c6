"""The service: takes jobs, has workers run them, tells how they go, forgets them in time.

Routes and page stand on this alone; nothing here knows of HTTP.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from synchuman.serving import folders
from synchuman.serving.engines import build_engines
from synchuman.serving.exporting import Exporter
from synchuman.serving.feed import Feed, Message
from synchuman.serving.janitor import Janitor
from synchuman.serving.jobs import (
    Conflict,
    DiskFull,
    Failure,
    Job,
    JobRequest,
    KeyReused,
    NotFound,
    NotReady,
    QueueFull,
    State,
)
from synchuman.serving.metrics import Metrics
from synchuman.serving.options import DataFolderError, Places, ServiceOptions
from synchuman.serving.present import present
from synchuman.serving.store import JobStore, KeyTaken
from synchuman.serving.turns import Estimator
from synchuman.serving.worker import Worker

LOGGER = logging.getLogger(__name__)

LEARN_FROM = 20  # earlier jobs to estimate times from
CANNOT_START = "The worker cannot be started; the server's log says why."
MAX_LOST = 3  # machines that one job may lose
MOMENT = 1.0  # seconds for which places in the queue are not looked up again


@dataclass
class Live:
    """What is only known while a job is active: its events, and the flag that stops it."""

    job: Job | None = None
    feed: Feed = field(default_factory=Feed)
    stop: threading.Event = field(default_factory=threading.Event)
    lost: int = 0  # times that what computed it went away


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
        self._closed = False
        self._live: dict[str, Live] = {}
        self._line: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self._guard = threading.Lock()
        self._estimator = Estimator(self.store.latest_done(LEARN_FROM))
        self.workers = [Worker(self, engine) for engine in build_engines(options, self.places.locks)]
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
        self.closing.set()
        running = {worker.job.id for worker in self.workers if worker.job is not None}
        with self._guard:
            lives = dict(self._live)
        for job_id, live in lives.items():
            live.stop.set()
            if job_id not in running:
                live.feed.close()
        with self.news:
            self.news.notify_all()

    def close(self, patience: float = 20.0) -> None:
        """Stop working, and close the store."""
        if self._closed:
            return
        self._closed = True
        self.begin_shutdown()
        self.janitor.join(patience)
        for worker in self.workers:
            if worker.is_alive():
                worker.join(patience)
            worker.engine.close()
        with self._guard:
            lives, self._live = list(self._live.values()), {}
        for live in lives:
            live.feed.close()
        self.store.close()
        self._own.release()

    def submit(
        self,
        owner: str,
        request: JobRequest,
        photo: bytes | None,
        *,
        webhook: str | None = None,
        key: str | None = None,
        fingerprint: str | None = None,
        unlimited: bool = False,
    ) -> tuple[Job, bool]:
        """Put a job into the queue.

        Args:
            owner: Whose it is.
            request: What to do.
            photo: From `folders.clean_photo`; None for jobs that stand on another one's views.
            webhook: Address to tell when it ends.
            key: Idempotency key: the same request with it gives the same job.
            fingerprint: Hash that tells requests apart.
            unlimited: Whether the owner may have any number of jobs.

        Returns:
            The job, and whether it is a new one.

        Raises:
            ServiceError: No room, no worker, or the key came with another request before.
        """
        if key is not None and (before := self.store.by_key(owner, key)) is not None:
            return _same(before, fingerprint), False
        self.check_room()
        job = Job(owner, request, time.time(), webhook=webhook, idempotency_key=key, fingerprint=fingerprint)
        folder = self.folder(job)
        folders.make(folder, photo)
        with self._guard:
            self._live[job.id] = Live(job)
        for worker in self.workers:
            worker.engine.admit(job.id)
        try:
            if request.parent is not None:
                self._inherit(request.parent, folder)
            self.store.add(job, self.limits.max_queue, None if unlimited else self.limits.max_active_per_user)
        except BaseException as error:
            with self._guard:
                del self._live[job.id]
            folders.remove(folder)
            if isinstance(error, KeyTaken) and key is not None:
                before = self.store.by_key(owner, key)
                if before is not None:
                    return _same(before, fingerprint), False
            raise
        with self.news:
            self.news.notify()
        self.tell_queue()
        return job, True

    def check_room(self) -> None:
        """Raise NotReady, QueueFull or DiskFull when no job can be taken now, before a photo is read."""
        if self.closing.is_set():
            raise NotReady("The server is shutting down.")
        if all(worker.engine.broken for worker in self.workers):
            raise NotReady(CANNOT_START)
        waiting = len(self.places_in_line())
        if waiting >= self.limits.max_queue:
            raise QueueFull(f"{waiting} jobs wait already; please try again in a few minutes.")
        if self.free_bytes() < self.limits.min_free:
            raise DiskFull("The disk of the server is nearly full. Please try again later.")

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
                self.live(job.id).stop.set()
                return stopping
        raise Conflict(f"The job is {now.state.value} already.")

    def delete(self, job: Job) -> bool:
        """Delete a job and its files; False when it has to stop first and goes then."""
        while (now := self.store.get(job.id)) is not None and now.active:
            if self.finish(job.id, State.CANCELLED, only=State.QUEUED) is not None:
                continue
            if self.store.change(job.id, only=[State.RUNNING], cancelled=True, doomed=True) is not None:
                self.live(job.id).stop.set()
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
        self._estimator.learn(job)
        self.metrics.count(job)
        LOGGER.info("job %s %s", job.id, state.value)
        if job.doomed:
            self.forget(job)
        with self._guard:
            live = self._live.pop(job_id, None)
        if live is not None:
            live.feed.tell(state.value, present(job))
            live.feed.close()
        if job.webhook is not None:
            self.janitor.hurry()
        self.tell_queue()
        return job

    def again(self, job: Job) -> bool:
        """Put a job that lost its machine back into the queue; False when it is to stop, or lost too many."""
        live = self.live(job.id)
        live.lost += 1
        if live.lost >= MAX_LOST or live.stop.is_set():
            return False
        if self.store.change(job.id, only=[State.RUNNING], state=State.QUEUED, started=None) is None:
            return False
        LOGGER.warning("job %s lost its machine and waits for another", job.id)
        with self.news:
            self.news.notify()
        self.tell_queue()
        return True

    def live(self, job_id: str) -> Live:
        """Return what is known of an active job; of a finished one, something that stops nothing."""
        with self._guard:
            return self._live.get(job_id) or Live()

    def revive(self, job: Job) -> None:
        """Take up a job that an earlier process left in the queue."""
        with self._guard:
            self._live[job.id] = Live(job)

    def follow(self, job: Job) -> Feed | None:
        """Return the events of an active job; None when it is over."""
        with self._guard:
            live = self._live.get(job.id)
        return None if live is None else live.feed

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
            return present(job, **(self.places_in_line().get(job.id) or {}))
        progress = feed.newest("progress") or {}
        told = {name: progress[name] for name in ("stage", "step", "total", "stages")} if progress else None
        return present(job, progress=told, eta=progress.get("eta"))

    def places_in_line(self) -> dict[str, dict[str, Any]]:
        """Return position and ETA of every queued job by its id, at most a moment old."""
        at, places = self._line
        return places if time.monotonic() - at < MOMENT else self._look_at_line()

    def _look_at_line(self) -> dict[str, dict[str, Any]]:
        ids = [row.id for row in self.store.queue()]
        queue = [job for job in (self.live(job_id).job for job_id in ids) if job is not None]
        busy = [worker.seconds_left(self._estimator) for worker in self.workers]
        ends = self._estimator.schedule(busy, queue)
        places = {job.id: {"position": i + 1, "eta": end} for i, (job, end) in enumerate(zip(queue, ends))}
        self._line = (time.monotonic(), places)
        return places

    def tell_queue(self) -> None:
        """Tell those who wait where they are."""
        for job_id, place in self._look_at_line().items():
            feed = self.live(job_id).feed
            if feed.newest("queued") != place:
                feed.tell("queued", place)

    def _inherit(self, parent_id: str, folder: Path) -> None:
        parent = self.get(parent_id)
        if parent.state is not State.DONE:
            raise Conflict(f"That job is {parent.state.value}; only a finished one has views to go on from.")
        try:
            folders.inherit(folder, self.folder(parent))
        except FileNotFoundError:
            raise NotFound("The files of that job are gone.") from None


def _same(before: Job, fingerprint: str | None) -> Job:
    if before.fingerprint != fingerprint:
        raise KeyReused("This Idempotency-Key came with another request before. Use a new one.")
    return before
