"""Routes that make jobs: from a photo, from an earlier job's views, or only a new texture."""

from __future__ import annotations

import hashlib
import io
from typing import IO, Annotated, Any

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from synchuman.serving import folders, forms
from synchuman.serving.auth import Identity
from synchuman.serving.jobs import Job, JobRequest, Kind, NotFound, ServiceError, State
from synchuman.serving.outbound import AddressRefused, Outbound
from synchuman.serving.present import present
from synchuman.serving.problems import Invalid, JobFailed, documented
from synchuman.serving.rates import Rate
from synchuman.serving.routes_jobs import IdentityHere, JobHere, ServiceHere, archive_of
from synchuman.serving.schemas import JobView
from synchuman.serving.service import Service

MAX_KEY = 200
DECODERS = 2  # photos decoded at once: a large one takes a few hundred megabytes meanwhile
FETCHES = 4
# What a failed job answers to a request that waited for it.
STATUS = {
    "bad_photo": 422,
    "run_failed": 422,
    "bad_run": 422,
    "timeout": 504,
    "not_ready": 503,
    "disk_full": 507,
}
GENERATE_EXAMPLE = {"image": "(photo.jpg)", "preset": "Fast", "seed": 7, "wait": False}
OFF_URL = "It is switched off on this server (--allow-image-url); send the photo as `image`."
OFF_WEBHOOK = "Webhooks are switched off on this server (--allow-webhooks)."
STRANGER_WEBHOOK = "Only callers with an API key may name one."

IdempotencyKey = Annotated[
    str | None, Header(max_length=MAX_KEY, description="The same request with the same key makes one job.")
]
ANSWERS: dict[int | str, dict[str, Any]] = {
    **documented(401, 403, 404, 408, 409, 413, 422, 429, 503, 507),
    200: {"model": JobView, "description": "The job is done (or the ZIP of its files, with download)."},
    202: {"model": JobView, "description": "The job waits or runs (wait=false)."},
}

router = APIRouter(tags=["jobs"])


class Intake:
    """What making jobs needs beside the service: how many photos at once, how many jobs a minute."""

    def __init__(self, service: Service) -> None:
        """Serve one service."""
        options = service.options
        per_minute = options.limits.jobs_per_minute
        self.rate = Rate(per_minute, 60.0, "You start many jobs; please wait a moment.")
        self.outbound = Outbound(options.private_networks)
        self._decoders = CapacityLimiter(DECODERS)
        self._fetches = CapacityLimiter(FETCHES)

    async def clean(self, photo: IO[bytes]) -> bytes:
        """Return an upload as a PNG without anything but pixels."""
        return await to_thread.run_sync(folders.clean_photo, photo, limiter=self._decoders)

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Fetch a photo and return it cleaned."""
        async with self._fetches:
            return await self.clean(io.BytesIO(await self.outbound.fetch(url, max_bytes)))


@router.post(
    "/generate",
    responses=ANSWERS,
    openapi_extra=forms.body_of(forms.GenerateForm, True, GENERATE_EXAMPLE),
)
async def generate(
    request: Request,
    service: ServiceHere,
    identity: IdentityHere,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a textured 3D person from one photo.

    Waits for the result, or answers at once with `wait=false`. When a waiting client goes away, its job is
    stopped, unless it has an Idempotency-Key with which the client can come back.
    """
    intake: Intake = request.app.state.intake
    _admit(intake, identity, request)
    if idempotency_key is None:  # else it may be a request whose job is there
        await to_thread.run_sync(service.admission.check_room)
    form, image = await forms.read(request, forms.GenerateForm, with_image=True)
    forms.check_together(form, image)
    webhook = await _webhook(intake, service, identity, form.webhook_url)
    parent: Job | None = None
    if form.job is not None:
        parent = identity.require(await to_thread.run_sync(service.get, form.job))
    wanted = JobRequest(
        kind=Kind.RESUME if form.skip_stage1 else Kind.GENERATE,
        settings=forms.settings_of(
            form, service.options.variant, None if parent is None else parent.request.settings
        ),
        stage1_only=form.stage1_only,
        graceful_fallback=form.graceful_fallback,
        person=None if form.person is None else form.person - 1,
        parent=form.job,
    )
    photo = await _photo(intake, service, form, image)
    return await _start(request, service, identity, wanted, photo, form, webhook, idempotency_key)


@router.post(
    "/jobs/{job_id}/retexture",
    responses=ANSWERS,
    openapi_extra=forms.body_of(forms.RetextureForm, False, {"texture_size": 4096, "wait": False}),
)
async def retexture(
    request: Request,
    service: ServiceHere,
    identity: IdentityHere,
    job: JobHere,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a new job from a finished one with another number of faces or texture size, without sampling."""
    intake: Intake = request.app.state.intake
    _admit(intake, identity, request)
    form, _ = await forms.read(request, forms.RetextureForm, with_image=False)
    wanted = JobRequest(
        kind=Kind.RETEXTURE,
        settings=forms.settings_of(form, service.options.variant, job.request.settings),
        stage1_only=job.result.get("mode") == "stage1_only",
        parent=job.id,
    )
    return await _start(request, service, identity, wanted, None, form, None, idempotency_key)


def _admit(intake: Intake, identity: Identity, request: Request) -> None:
    if not identity.unlimited:
        intake.rate.take(request.state.client)


async def _webhook(intake: Intake, service: Service, identity: Identity, url: str | None) -> str | None:
    if url is None:
        return None
    if not service.options.webhooks:
        raise Invalid.field("webhook_url", OFF_WEBHOOK)
    if not identity.known:
        raise Invalid.field("webhook_url", STRANGER_WEBHOOK)
    try:
        await intake.outbound.check(url)
    except AddressRefused as error:
        raise Invalid.field("webhook_url", str(error)) from None
    return url


async def _photo(intake: Intake, service: Service, form: Any, image: UploadFile | None) -> bytes | None:
    if form.image_url is not None:
        if not service.options.image_url:
            raise Invalid.field("image_url", OFF_URL)
        return await intake.fetch(form.image_url, service.limits.max_upload)
    return None if image is None else await intake.clean(image.file)


async def _start(
    request: Request,
    service: Service,
    identity: Identity,
    wanted: JobRequest,
    photo: bytes | None,
    form: Any,
    webhook: str | None,
    key: str | None,
) -> Response:
    print_of = hashlib.sha256(wanted.model_dump_json().encode() + b"\0" + (webhook or "").encode())
    print_of.update(b"\0" + (photo or b""))

    def submit() -> tuple[Job, bool]:
        return service.admission.submit(
            identity.name,
            wanted,
            photo,
            webhook=webhook,
            key=key,
            fingerprint=print_of.hexdigest() if key else None,
            unlimited=identity.unlimited,
        )

    job, new = await to_thread.run_sync(submit)
    headers = {"Location": f"/jobs/{job.id}"} | ({} if new else {"Idempotent-Replayed": "true"})
    if not form.wait:
        shown = await to_thread.run_sync(service.show, job)
        return JSONResponse(shown, 202 if job.active else 200, headers=headers)
    ended = await _wait(request, service, job, keep=key is not None)
    if ended is None:  # the client has gone, or somebody deleted the job
        raise NotFound("There is no such job any more.")
    if ended.state is not State.DONE:
        raise _failed(ended)
    if form.download:
        response: Response = await to_thread.run_sync(archive_of, service, ended)
        response.headers.update(headers)
        return response
    return JSONResponse(present(ended), headers=headers)


async def _wait(request: Request, service: Service, job: Job, keep: bool) -> Job | None:
    """Return the job when it is over; None when the client has gone, which stops the job unless `keep`."""
    feed = service.follow(job)
    gone = False
    if feed is not None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal gone
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                gone = True
                group.cancel_scope.cancel()

            group.start_soon(watch)
            async for _ in feed.follow():
                pass
            group.cancel_scope.cancel()
    now = await to_thread.run_sync(service.store.get, job.id)
    if now is None or (not gone and not now.active):
        return now
    # The client has gone, or the server is about to: a job that nobody waits for any more is not run.
    if not keep:
        try:
            await to_thread.run_sync(service.cancel, job)
        except ServiceError:  # it ended at the same moment
            return await to_thread.run_sync(service.store.get, job.id)
    return None if gone else now


def _failed(job: Job) -> JobFailed:
    shown = present(job)
    if job.failure is not None:
        return JobFailed(STATUS.get(job.failure.code, 500), job.failure.code, job.failure.message, shown)
    if job.state is State.CANCELLED:
        return JobFailed(409, "cancelled", "The job was cancelled.", shown)
    return JobFailed(503, "interrupted", "The server was stopped meanwhile. Please try again.", shown)
