"""Routes of jobs that are there: look, follow, fetch, stop, delete, texture again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.background import BackgroundTask

from synchuman.serving import folders
from synchuman.serving.auth import Forbidden, Identity
from synchuman.serving.jobs import Conflict, Job, NotFound, State
from synchuman.serving.present import present
from synchuman.serving.problems import documented
from synchuman.serving.schemas import JobFile, JobFiles, JobPage, JobView
from synchuman.serving.service import Service

MEDIA_TYPES = {
    ".glb": "model/gltf-binary",
    ".png": "image/png",
    ".json": "application/json",
    ".zip": "application/zip",
}
OTHER_MEDIA = "application/octet-stream"
PAGE = 50
# A user's file is only ever saved: nothing in it runs, whatever a browser takes it for.
FILE_POLICY = {"Content-Security-Policy": "sandbox; default-src 'none'"}

router = APIRouter(tags=["jobs"])


def get_service(request: Request) -> Service:
    """Return the service that the application stands on."""
    return request.app.state.service


def get_identity(request: Request) -> Identity:
    """Return who calls."""
    return request.state.identity


ServiceHere = Annotated[Service, Depends(get_service)]
IdentityHere = Annotated[Identity, Depends(get_identity)]


async def find_job(job_id: str, service: ServiceHere, identity: IdentityHere) -> Job:
    """Return the job in the path if the caller may see it."""
    return identity.require(await to_thread.run_sync(service.get, job_id))


JobHere = Annotated[Job, Depends(find_job)]


@router.get("/jobs", response_model=JobPage, responses=documented(401, 403, 422))
async def list_jobs(
    service: ServiceHere,
    identity: IdentityHere,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = PAGE,
    before: Annotated[float | None, Query(description="From `next` of the page before.")] = None,
) -> dict[str, Any]:
    """List your jobs, newest first."""
    if not identity.known:
        raise Forbidden("Jobs are only listed for those who log in: keep the ids of yours.")

    def look() -> dict[str, Any]:
        jobs = service.store.page(identity.name, state, limit, before)
        following = None
        if len(jobs) == limit:
            query = {"limit": limit, "before": repr(jobs[-1].created)}
            following = "/jobs?" + urlencode(query | ({"state": state.value} if state else {}))
        return {"jobs": [service.show(job) for job in jobs], "next": following}

    return await to_thread.run_sync(look)


@router.get("/jobs/{job_id}", response_model=JobView, responses=documented(401, 404))
async def show_job(service: ServiceHere, job: JobHere) -> dict[str, Any]:
    """Tell how a job is: state, place in the queue, progress, result."""
    return await to_thread.run_sync(service.show, job)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        **documented(401, 404),
        200: {"description": "queued, running, waiting, progress, cutout, views, coarse; at last the state."},
    },
)
async def follow_job(
    service: ServiceHere, job: JobHere, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """Follow a job while it goes, as server-sent events; the last one, named like its state, is the job."""
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    feed = service.follow(job)
    if feed is None:
        now = await to_thread.run_sync(service.get, job.id)
        yield ServerSentEvent(event=now.state.value, data=present(now))
        return
    async for message in feed.follow(after):
        yield ServerSentEvent(event=message.name, id=str(message.number), data=message.data)


@router.post(
    "/jobs/{job_id}/cancel", status_code=202, response_model=JobView, responses=documented(401, 404, 409)
)
async def cancel_job(service: ServiceHere, job: JobHere) -> dict[str, Any]:
    """Stop a job: at once when it waits, at its next step when it runs."""
    return await to_thread.run_sync(lambda: service.show(service.cancel(job)))


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    response_class=Response,
    responses={**documented(401, 404), 202: {"description": "It is being stopped, and goes then."}},
)
async def delete_job(service: ServiceHere, job: JobHere) -> Response:
    """Delete a job with all its files; a running one is stopped first."""
    return Response(status_code=204 if await to_thread.run_sync(service.delete, job) else 202)


@router.get("/jobs/{job_id}/files", response_model=JobFiles, responses=documented(401, 404))
async def list_files(service: ServiceHere, job: JobHere) -> dict[str, Any]:
    """List the files of a job; while it runs, those that are there already."""
    files = await to_thread.run_sync(service.files, job)
    return {"files": [_describe(job, name, path) for name, path in files.items()]}


@router.get("/jobs/{job_id}/files/{name:path}", response_class=FileResponse, responses=documented(401, 404))
async def get_file(service: ServiceHere, job: JobHere, name: str) -> FileResponse:
    """Fetch one file, by the name that the list gives it."""
    path = (await to_thread.run_sync(service.files, job)).get(name)
    if path is None:
        raise NotFound("There is no such file in this job.")
    return FileResponse(path, media_type=_media_type(path), filename=path.name, headers=FILE_POLICY)


@router.get("/jobs/{job_id}/archive", response_class=FileResponse, responses=documented(401, 404, 409))
async def get_archive(service: ServiceHere, job: JobHere) -> FileResponse:
    """Fetch all files of a finished job as a ZIP."""
    if job.state is not State.DONE:
        raise Conflict(f"The job is {job.state.value}; there is an archive when it is done.")
    return await to_thread.run_sync(archive_of, service, job)


def archive_of(service: Service, job: Job) -> FileResponse:
    """Return a job's files as a ZIP that is deleted once it is sent."""
    handle, name = tempfile.mkstemp(dir=service.places.temporary, suffix=".zip")
    os.close(handle)
    path = Path(name)
    try:
        folders.pack(service.folder(job), path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[".zip"],
        filename=f"synchuman-{job.id[:8]}.zip",
        headers={**FILE_POLICY, "X-Job-Id": job.id},
        background=BackgroundTask(path.unlink, missing_ok=True),
    )


def _describe(job: Job, name: str, path: Path) -> JobFile:
    url = f"/jobs/{job.id}/files/{quote(name)}"
    return JobFile(name=name, bytes=path.stat().st_size, media_type=_media_type(path), url=url)


def _media_type(path: Path) -> str:
    return MEDIA_TYPES.get(path.suffix, OTHER_MEDIA)
