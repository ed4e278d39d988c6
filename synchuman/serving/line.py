"""The line of jobs that wait: who is where, how long it takes, and telling them so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from synchuman.serving.turns import Estimator

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore
    from synchuman.serving.jobs import Job

LEARN_FROM = 20  # earlier jobs to estimate times from
MOMENT = 1.0  # seconds for which places are not looked up again


class Line:
    """The line before all workers of a service. All methods may be called from any thread."""

    def __init__(self, service: ServiceCore) -> None:
        """Learn from earlier jobs how long jobs take."""
        self.service = service
        self.estimator = Estimator(service.store.latest_done(LEARN_FROM))
        self._seen: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})

    def places(self) -> dict[str, dict[str, Any]]:
        """Return position and ETA of every queued job by its id, at most a moment old."""
        at, places = self._seen
        return places if time.monotonic() - at < MOMENT else self._look()

    def place(self, job: Job) -> dict[str, Any]:
        """Return position and ETA of a job; empty when it does not wait."""
        return self.places().get(job.id) or {}

    def tell(self) -> None:
        """Tell those who wait where they are."""
        for job_id, place in self._look().items():
            feed = self.service.active.get(job_id).feed
            if feed.newest("queued") != place:
                feed.tell("queued", place)

    def _look(self) -> dict[str, dict[str, Any]]:
        service = self.service
        ids = [row.id for row in service.store.queue()]
        queue = [job for job in (service.active.get(job_id).job for job_id in ids) if job is not None]
        busy = [worker.seconds_left(self.estimator) for worker in service.workers]
        ends = self.estimator.schedule(busy, queue)
        places = {job.id: {"position": i + 1, "eta": end} for i, (job, end) in enumerate(zip(queue, ends))}
        self._seen = (time.monotonic(), places)
        return places
