"""The job store: one SQLite file that survives being killed at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from synchuman.serving.jobs import ACTIVE, Job, QueueFull, State
from synchuman.serving.tables import CALLS, JOBS, METADATA, TURNS, VERSION, from_row, to_row
from synchuman.serving.turns import in_turn

LOGGER = logging.getLogger(__name__)

BUSY_TIMEOUT = 10_000  # ms to wait for another connection's write


class StoreError(RuntimeError):
    """The file is not a job store that this version understands; the message says what to do."""


class KeyTaken(Exception):
    """There is a job of that owner with that idempotency key already."""


class JobStore:
    """Jobs, in any thread. Every change is one transaction that is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        """Open the store at `path`, or make it.

        Raises:
            StoreError: It was written by another version.
        """
        # JSON in the file is text: nothing in it is ever executed or unpickled.
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._writing() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar()
            if found not in (0, VERSION):
                raise StoreError(f"{path} has format {found}, not {VERSION}: choose another folder for data.")
            METADATA.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
            _drop_unreadable(connection)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def add(self, job: Job, max_queue: int, max_per_owner: int | None) -> None:
        """Put a job into the queue.

        Args:
            job: A queued job.
            max_queue: Jobs that may wait in all.
            max_per_owner: Jobs of one owner that may wait or run; None for any number.

        Raises:
            QueueFull: One more would be too many.
            KeyTaken: Its idempotency key is in use.
        """
        with self._writing() as connection:
            waiting = _count(connection, JOBS.c.state == State.QUEUED.value)
            if waiting >= max_queue:
                raise QueueFull(f"{waiting} jobs wait already; please try again in a few minutes.")
            own = _count(connection, JOBS.c.owner == job.owner, JOBS.c.state.in_(_values(ACTIVE)))
            if max_per_owner is not None and own >= max_per_owner:
                raise QueueFull(
                    f"{own} of your jobs wait or run already; wait for one of them, or cancel it."
                )
            try:
                connection.execute(insert(JOBS).values(to_row(job)))
            except IntegrityError:
                raise KeyTaken from None

    def get(self, job_id: str) -> Job | None:
        """Return a job."""
        return self._one(JOBS.c.id == job_id)

    def by_key(self, owner: str, key: str) -> Job | None:
        """Return the owner's job with this idempotency key."""
        return self._one(JOBS.c.owner == owner, JOBS.c.idempotency_key == key)

    def page(self, owner: str | None, state: State | None, limit: int, before: float | None) -> list[Job]:
        """Return an owner's jobs (None: everybody's), newest first, at most `limit` created before a time."""
        query = select(JOBS).where(~JOBS.c.doomed).order_by(JOBS.c.created.desc(), JOBS.c.id).limit(limit)
        if owner is not None:
            query = query.where(JOBS.c.owner == owner)
        if state is not None:
            query = query.where(JOBS.c.state == state.value)
        if before is not None:
            query = query.where(JOBS.c.created < before)
        return self._all(query)

    def with_state(self, *states: State) -> list[Job]:
        """Return all jobs in these states, oldest first."""
        return self._all(select(JOBS).where(JOBS.c.state.in_(_values(states))).order_by(JOBS.c.created))

    def latest_done(self, limit: int) -> list[Job]:
        """Return the jobs that were done last, newest first."""
        done = JOBS.c.state == State.DONE.value
        return self._all(select(JOBS).where(done).order_by(JOBS.c.finished.desc()).limit(limit))

    def counts(self) -> dict[State, int]:
        """Return how many jobs there are in each state."""
        with self._reading() as connection:
            rows = connection.execute(select(JOBS.c.state, func.count()).group_by(JOBS.c.state)).all()
        return {state: dict(map(tuple, rows)).get(state.value, 0) for state in State}

    def total_size(self) -> int:
        """Return the bytes of all finished jobs' folders."""
        with self._reading() as connection:
            return connection.execute(select(func.coalesce(func.sum(JOBS.c.size), 0))).scalar_one()

    def queue(self) -> list[Any]:
        """Return id, owner and created of the queued jobs in the order in which they will be served."""
        with self._reading() as connection:
            return _queue(connection)

    def claim(self) -> Job | None:
        """Take the job whose turn it is and mark it running; None when nothing waits."""
        with self._writing() as connection:
            queue = _queue(connection)
            if not queue:
                return None
            row = connection.execute(select(JOBS).where(JOBS.c.id == queue[0].id)).one()
            job = replace(from_row(row), state=State.RUNNING, started=time.time())
            changes = {"state": job.state.value, "started": job.started}
            connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(changes))
            turn = 1 + (connection.execute(select(func.max(TURNS.c.turn))).scalar() or 0)
            connection.execute(delete(TURNS).where(TURNS.c.owner == job.owner))
            connection.execute(insert(TURNS).values(owner=job.owner, turn=turn))
            return job

    def change(self, job_id: str, *, only: Sequence[State] = (), **changes: Any) -> Job | None:
        """Change fields of a job and return it; None when it is not there or in none of the states `only`."""
        with self._writing() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
            if row is None or (only and State(row.state) not in only):
                return None
            job = replace(from_row(row), **changes)
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(to_row(job)))
            return job

    def finish(
        self, job_id: str, call: Callable[[Job], str], only: State | None = None, **changes: Any
    ) -> Job | None:
        """Change a job for the last time, and remember its webhook with it.

        Args:
            job_id: Of an active job.
            call: Makes the webhook's body of the finished job; only called when it has a webhook.
            only: The state it must be in; None for any in which it is active.
            changes: Fields of the job, its final state among them.

        Returns:
            The job as it is now; None when it was in no such state.
        """
        with self._writing() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
            if row is None or State(row.state) not in (ACTIVE if only is None else (only,)):
                return None
            job = replace(from_row(row), **changes)
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(to_row(job)))
            if job.webhook is not None:
                values = {"owner": job.owner, "url": job.webhook, "body": call(job), "tries": 0, "due": 0.0}
                connection.execute(insert(CALLS).values(job=job.id, **values))
            return job

    def remove(self, job_id: str) -> None:
        """Forget a job."""
        with self._writing() as connection:
            connection.execute(delete(JOBS).where(JOBS.c.id == job_id))

    def due_calls(self) -> list[Row[Any]]:
        """Return the webhooks whose time has come: job, owner, url, body, tries."""
        with self._reading() as connection:
            return list(connection.execute(select(CALLS).where(CALLS.c.due <= time.time()).limit(16)).all())

    def next_call(self) -> float | None:
        """Return when the next webhook is due; None when there is none."""
        with self._reading() as connection:
            return connection.execute(select(func.min(CALLS.c.due))).scalar()

    def settle_call(self, job_id: str, due: float | None) -> None:
        """Plan another try of a webhook at a time, or forget it (None)."""
        change = delete(CALLS) if due is None else update(CALLS).values(due=due, tries=CALLS.c.tries + 1)
        with self._writing() as connection:
            connection.execute(change.where(CALLS.c.job == job_id))

    def _one(self, *conditions: Any) -> Job | None:
        with self._reading() as connection:
            row = connection.execute(select(JOBS).where(*conditions)).one_or_none()
        return None if row is None else from_row(row)

    def _all(self, query: Any) -> list[Job]:
        with self._reading() as connection:
            return [from_row(row) for row in connection.execute(query)]

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(reading=True) as connection:
            yield connection


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own: `_begin` does
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "secure_delete=ON",
        f"busy_timeout={BUSY_TIMEOUT}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes its lock before it looks, so two claims never see the same queue; with the write-ahead
    # log a reader waits for nobody.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _drop_unreadable(connection: Connection) -> None:
    """Forget jobs whose settings this version no longer has; results live for hours, so few are lost."""
    for row in connection.execute(select(JOBS)).all():
        try:
            from_row(row)
        except ValueError as error:
            LOGGER.warning("job of another version forgotten: %s", type(error).__name__)
            connection.execute(delete(JOBS).where(JOBS.c.id == row.id))


def _queue(connection: Connection) -> list[Any]:
    waiting = select(JOBS.c.id, JOBS.c.owner, JOBS.c.created).where(JOBS.c.state == State.QUEUED.value)
    rows: Any = connection.execute(waiting.order_by(JOBS.c.created, JOBS.c.id)).all()
    turns = {row.owner: row.turn for row in connection.execute(select(TURNS))}
    return in_turn(rows, turns)


def _count(connection: Connection, *conditions: Any) -> int:
    return connection.execute(select(func.count()).select_from(JOBS).where(*conditions)).scalar_one()


def _values(states: Any) -> list[str]:
    return [state.value for state in states]
