"""What may come into the queue: room for it, one job for one key, views of the job that it stands on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.serving import folders
from synchuman.serving.jobs import (
    Conflict,
    DiskFull,
    Job,
    JobRequest,
    KeyReused,
    NotFound,
    NotReady,
    QueueFull,
    State,
)
from synchuman.serving.store import KeyTaken

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore

CANNOT_START = "The worker cannot be started; the server's log says why."


class Admission:
    """Takes jobs for a service. All methods may be called from any thread."""

    def __init__(self, service: ServiceCore) -> None:
        """Work for a service."""
        self.service = service

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
        service, limits = self.service, self.service.limits
        if key is not None and (before := service.store.by_key(owner, key)) is not None:
            return _same(before, fingerprint), False
        self.check_room()
        job = Job(owner, request, time.time(), webhook=webhook, idempotency_key=key, fingerprint=fingerprint)
        folder = service.folder(job)
        folders.make(folder, photo)
        service.active.add(job)
        for worker in service.workers:
            worker.engine.admit(job.id)
        try:
            if request.parent is not None:
                self._inherit(request.parent, folder)
            service.store.add(job, limits.max_queue, None if unlimited else limits.max_active_per_user)
        except BaseException as error:
            service.active.remove(job.id)
            folders.remove(folder)
            if isinstance(error, KeyTaken) and key is not None:
                before = service.store.by_key(owner, key)
                if before is not None:
                    return _same(before, fingerprint), False
            raise
        with service.news:
            service.news.notify()
        service.line.tell()
        return job, True

    def check_room(self) -> None:
        """Raise NotReady, QueueFull or DiskFull when no job can be taken now, before a photo is read."""
        service, limits = self.service, self.service.limits
        if service.closing.is_set():
            raise NotReady("The server is shutting down.")
        if all(worker.engine.broken for worker in service.workers):
            raise NotReady(CANNOT_START)
        waiting = len(service.line.places())
        if waiting >= limits.max_queue:
            raise QueueFull(f"{waiting} jobs wait already; please try again in a few minutes.")
        if service.free_bytes() < limits.min_free:
            raise DiskFull("The disk of the server is nearly full. Please try again later.")

    def _inherit(self, parent_id: str, folder: Path) -> None:
        parent = self.service.get(parent_id)
        if parent.state is not State.DONE:
            raise Conflict(f"That job is {parent.state.value}; only a finished one has views to go on from.")
        try:
            folders.inherit(folder, self.service.folder(parent))
        except FileNotFoundError:
            raise NotFound("The files of that job are gone.") from None


def _same(before: Job, fingerprint: str | None) -> Job:
    if before.fingerprint != fingerprint:
        raise KeyReused("This Idempotency-Key came with another request before. Use a new one.")
    return before
