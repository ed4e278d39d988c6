"""What endpoints for gradio_client and tools for agents do: the service's jobs, the guard's callers."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from anyio import to_thread
from fastapi import FastAPI
from gradio.data_classes import FileData
from pydantic import ValidationError

from synchuman.events import PhotoError
from synchuman.serving import forms, uploads
from synchuman.serving.auth import Identity
from synchuman.serving.jobs import Conflict, Job, JobRequest, NotFound, ServiceError, State
from synchuman.serving.problems import Invalid
from synchuman.serving.routes_generate import OFF_URL, Intake
from synchuman.serving.service import Service

LOGGER = logging.getLogger(__name__)

WEB = ("https://", "http://")


class Calls:
    """Does what a caller asks for, as far as they may."""

    def __init__(self, service: Service, app: FastAPI, cache: Path) -> None:
        """Serve one service; uploads to Gradio are in `cache`."""
        self._service = service
        self._app = app
        self._cache = cache.resolve()

    async def start(self, request: gr.Request, photo: Any, values: dict[str, Any]) -> Job:
        """Start a job from a photo (file, data: URI or address) and the fields of a form."""
        upload = self._upload(photo)
        try:
            identity = self.admit(request)
            await to_thread.run_sync(self._service.admission.check_room)
            given = {name: value for name, value in values.items() if value is not None}
            if isinstance(photo, str) and photo.startswith(WEB):
                given.setdefault("image_url", photo)
                photo = None
            form = forms.GenerateForm(**given)
            if (photo is None) == (form.image_url is None):
                raise Invalid.field("photo", "Give the photo either as `photo` or as `image_url`.")
            wanted = JobRequest(
                settings=forms.settings_of(form, self._service.options.variant),
                stage1_only=form.stage1_only,
                graceful_fallback=form.graceful_fallback,
                person=None if form.person is None else form.person - 1,
            )
            if form.image_url is not None:
                if not self._service.options.image_url:
                    raise Invalid.field("image_url", OFF_URL)
                pixels = await self._intake.fetch(form.image_url, self._service.limits.max_upload)
            elif upload is not None:
                # Already cleaned when it came; this is what says why it was refused.
                pixels = await to_thread.run_sync(uploads.read, upload)
            else:
                pixels = await self._intake.clean(_decoded(photo))
            return await self.submit(identity, wanted, pixels)
        finally:
            # What came may say where and with what it was taken.
            if upload is not None:
                upload.unlink(missing_ok=True)

    def _upload(self, photo: Any) -> Path | None:
        """Return the file that Gradio made of an upload; None when the photo came in another way."""
        if photo is None or isinstance(photo, str):
            return None
        named = photo.get("path") if isinstance(photo, dict) else photo.path
        path = Path(str(named)).resolve()
        if not path.is_relative_to(self._cache) or not path.is_file():
            raise Invalid.field("photo", "Upload the photo first.")
        return path

    async def submit(self, identity: Identity, wanted: JobRequest, photo: bytes | None) -> Job:
        """Put a job into the queue."""

        def submit() -> Job:
            return self._service.admission.submit(identity.name, wanted, photo, unlimited=identity.unlimited)[
                0
            ]

        return await to_thread.run_sync(submit)

    def follow(self, job: Job) -> AsyncIterator[Any]:
        """Yield what happens to a job until it is over."""
        feed = self._service.follow(job)
        return _nothing() if feed is None else feed.follow()

    def model_of(self, job: Job) -> FileData:
        """Return the model of a job that is done."""
        if job.failure is not None:
            raise Conflict(job.failure.message)
        if job.state is not State.DONE:
            raise Conflict(f"The job is {job.state.value}; there is a model when it is done.")
        path = self._service.files(job).get(job.result["glb"])
        if path is None:
            raise NotFound("The files of that job are gone.")
        return FileData(path=str(path), orig_name="person.glb")

    async def find(self, request: gr.Request, job_id: str) -> Job:
        """Return a job if the caller may see it."""
        return _identity(request).require(await to_thread.run_sync(self._service.get, job_id))

    @property
    def _intake(self) -> Intake:
        return self._app.state.intake

    def admit(self, request: gr.Request) -> Identity:
        """Return who calls, and count the job that they start."""
        identity = _identity(request)
        if not identity.unlimited:
            self._intake.rate.take(_scope(request)["state"]["client"])
        return identity


@contextmanager
def plainly_told() -> Iterator[None]:
    """Turn what users can do wrong into errors that Gradio shows them."""
    try:
        yield
    except ValidationError as error:
        raise gr.Error(str(Invalid.of(error)), print_exception=False) from None
    except (ServiceError, PhotoError) as error:
        raise gr.Error(str(error), print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        LOGGER.error("a call failed", exc_info=error)
        raise gr.Error("Something went wrong on our side. Please try again.", print_exception=False) from None


def _decoded(photo: str) -> io.BytesIO:
    """Return the bytes of a data: URI, the way in which agents send files."""
    head, comma, data = photo.partition(",")
    try:
        if head.startswith("data:") and head.endswith(";base64") and comma:
            return io.BytesIO(base64.b64decode(data, validate=True))
    except ValueError:
        pass
    raise Invalid.field("photo", "Send the photo as a file, or as data:image/jpeg;base64,… .")


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


def _scope(request: Any) -> Any:
    # Gradio wraps the request, except in its MCP server.
    plain: Any = request.request if isinstance(request, gr.Request) else request
    return plain.scope


def _identity(request: gr.Request) -> Identity:
    return _scope(request)["state"]["identity"]
