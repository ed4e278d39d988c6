"""Jobs that wait or run, with what is only known meanwhile: their events, and the flags that stop them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from synchuman.serving.feed import Feed
from synchuman.serving.jobs import Job


@dataclass
class Active:
    """What is only known while a job is active."""

    job: Job | None = None
    feed: Feed = field(default_factory=Feed)
    stop: threading.Event = field(default_factory=threading.Event)
    lost: int = 0  # times that what computed it went away


class ActiveJobs:
    """All of them by id. All methods may be called from any thread."""

    def __init__(self) -> None:
        """Begin with none."""
        self._jobs: dict[str, Active] = {}
        self._guard = threading.Lock()

    def add(self, job: Job) -> None:
        """Take a job up."""
        with self._guard:
            self._jobs[job.id] = Active(job)

    def get(self, job_id: str) -> Active:
        """Return what is known of a job; of one that is over, something that stops nothing."""
        with self._guard:
            return self._jobs.get(job_id) or Active()

    def feed(self, job: Job) -> Feed | None:
        """Return the events of a job; None when it is over."""
        with self._guard:
            active = self._jobs.get(job.id)
        return None if active is None else active.feed

    def all(self) -> dict[str, Active]:
        """Return those of this moment by their ids."""
        with self._guard:
            return dict(self._jobs)

    def remove(self, job_id: str) -> Active | None:
        """Let go of a job; return what was known of it."""
        with self._guard:
            return self._jobs.pop(job_id, None)
