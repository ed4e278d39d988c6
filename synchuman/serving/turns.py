"""Whose turn it is: one job of each user after the other, and how long that takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol, TypeVar

from synchuman.serving.jobs import Job, Kind, State

LEARNING = 0.4  # weight of the newest run against the earlier ones
NEVER = -1  # turn of somebody who was never served


class InLine(Protocol):
    """What counts for a job's turn."""

    @property
    def owner(self) -> str:
        """Whose it is."""

    @property
    def created(self) -> float:
        """When it was made."""


Waiting = TypeVar("Waiting", bound=InLine)


def in_turn(waiting: Sequence[Waiting], turns: dict[str, int]) -> list[Waiting]:
    """Order waiting jobs so that the user who was served longest ago comes first, each with one job a round.

    Args:
        waiting: Jobs, oldest first.
        turns: When each user was served last, as a rising number.
    """
    by_owner: dict[str, deque[Waiting]] = {}
    for job in waiting:
        by_owner.setdefault(job.owner, deque()).append(job)
    line = [(turns.get(owner, NEVER), jobs[0].created, owner) for owner, jobs in by_owner.items()]
    heapify(line)
    turn = max(turns.values(), default=NEVER)
    ordered: list[Waiting] = []
    while line:
        _, _, owner = heappop(line)
        jobs = by_owner[owner]
        ordered.append(jobs.popleft())
        turn += 1
        if jobs:
            heappush(line, (turn, jobs[0].created, owner))
    return ordered


class Estimator:
    """Learns how long stages take on this machine; sampling scales with its steps."""

    STEPS = (("stage 1", "stage1_steps"), ("stage 2", "stage2_steps"))

    def __init__(self, done: Sequence[Job] = ()) -> None:
        """Learn from earlier jobs, newest first."""
        self._seconds: dict[str, float] = {}
        for job in reversed(done):
            self.learn(job)

    def learn(self, job: Job) -> None:
        """Take in the seconds per stage of a job that is done."""
        if job.state is not State.DONE:
            return
        steps = self._steps(job)
        for stage, seconds in job.result.get("seconds", {}).items():
            each = seconds / steps.get(stage, 1)
            before = self._seconds.get(stage, each)
            self._seconds[stage] = (1 - LEARNING) * before + LEARNING * each

    def expect(self, job: Job) -> float | None:
        """Return the seconds that a job will run; None before anything was learned."""
        if not self._seconds:
            return None
        skipped = set() if job.request.kind is Kind.GENERATE else {"cut-out", "stage 1"}
        if job.request.kind is Kind.RETEXTURE or job.request.stage1_only:
            skipped |= {"preview", "stage 2"}
        steps = self._steps(job)
        return sum(
            each * steps.get(stage, 1) for stage, each in self._seconds.items() if stage not in skipped
        )

    def schedule(self, running: Sequence[float | None], queue: Sequence[Job]) -> list[float | None]:
        """Return in how many seconds each queued job will be done.

        Args:
            running: For each worker the seconds until it is free (0 when it is), None when unknown.
            queue: Jobs in their order.
        """
        free = [seconds for seconds in running if seconds is not None]
        expected = [self.expect(job) for job in queue]
        if len(free) < len(running) or not free or None in expected:
            return [None] * len(queue)
        heapify(free)
        ends: list[float | None] = []
        for seconds in expected:
            end = heappop(free) + (seconds or 0.0)
            heappush(free, end)
            ends.append(end)
        return ends

    def _steps(self, job: Job) -> dict[str, int]:
        settings = job.request.settings
        return {stage: getattr(settings, name, 1) for stage, name in self.STEPS}
