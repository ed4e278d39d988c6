"""The tables of the job store, and jobs as their rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, Row, String, Table

from synchuman.serving.jobs import Failure, Job, JobRequest, State

VERSION = 1  # of the tables; kept in SQLite's user_version

METADATA = MetaData()
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("state", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("expires", Float),
    Column("result", JSON, nullable=False),
    Column("failure", JSON),
    Column("size", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("doomed", Boolean, nullable=False),
    Column("webhook", String),
    Column("idempotency_key", String),
    Column("fingerprint", String),
    Index("one_job_per_key", "owner", "idempotency_key", unique=True),
    Index("by_state", "state", "created"),
    Index("by_owner", "owner", "created"),
)
# When each owner was served last: a running number, not a time.
TURNS = Table("turns", METADATA, Column("owner", String, primary_key=True), Column("turn", Integer))
# Webhooks that are still to be sent; a row goes when it is delivered or given up.
CALLS = Table(
    "calls",
    METADATA,
    Column("job", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("url", String, nullable=False),
    Column("body", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due", Float, nullable=False),
)


def to_row(job: Job) -> dict[str, Any]:
    """Return a job as values of `JOBS`."""
    row = {column.name: getattr(job, column.name) for column in JOBS.columns}
    row["failure"] = None if job.failure is None else asdict(job.failure)
    return {**row, "state": job.state.value, "request": job.request.model_dump(mode="json")}


def from_row(row: Row[Any]) -> Job:
    """Return the job in a row of `JOBS`.

    Raises:
        ValueError: Its settings are not those of this version.
    """
    values = dict(row._mapping)
    failure = values["failure"]
    return Job(
        **{
            **values,
            "state": State(values["state"]),
            "request": JobRequest.model_validate(values["request"]),
            "failure": None if failure is None else Failure(**failure),
        }
    )
