"""How a job is told to its user: one JSON object for routes, events and webhooks."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from synchuman.serving.jobs import Job, State


def present(
    job: Job,
    *,
    progress: dict[str, Any] | None = None,
    position: int | None = None,
    eta: float | None = None,
) -> dict[str, Any]:
    """Return what a user sees of a job.

    Args:
        job: The job.
        progress: Stage, step, total of a running one.
        position: Place in the queue, 1 is next.
        eta: Seconds until it is done.
    """
    done = job.state is State.DONE
    here = f"/jobs/{job.id}"
    shown: dict[str, Any] = {
        "id": job.id,
        "state": job.state.value,
        "success": None if job.active else done,
        "kind": job.request.kind.value,
        "parent": job.request.parent,
        "created": _time(job.created),
        "started": _time(job.started),
        "finished": _time(job.finished),
        "expires": _time(job.expires),
        "position": position,
        "eta": None if eta is None else round(eta, 1),
        "progress": progress,
        "cancelling": job.cancelled and job.active,
        "settings": job.request.settings.model_dump(),
        "stage1_only": job.request.stage1_only,
        "graceful_fallback": job.request.graceful_fallback,
        "mode": None,
        "fallback": None,
        "duration": None,
        "seconds": {},
        "faces": None,
        "peak_memory": None,
        "bytes": job.size,
        "warnings": [],
        "error": None,
        "outputs": {},
        "links": {"self": here, "events": f"{here}/events", "files": f"{here}/files"},
    }
    if job.failure is not None:
        shown["error"] = {"code": job.failure.code, "message": job.failure.message}
    if job.started is not None and job.finished is not None:
        shown["duration"] = round(job.finished - job.started, 3)
    if done:
        told = ("mode", "fallback", "seconds", "faces", "peak_memory", "warnings")
        shown.update({name: job.result[name] for name in told if name in job.result})
        shown["outputs"] = {
            "glb": f"{here}/files/{job.result['glb']}",
            "views": f"{here}/files/OneStage/concat.png",
            "archive": f"{here}/archive",
        }
    return shown


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
