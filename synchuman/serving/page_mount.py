"""The page on top of the service: same process, same port, same doors, same jobs."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synchuman.events import (
    Cancelled,
    CoarseMeshReady,
    CutoutReady,
    Done,
    Event,
    PhotoError,
    Progress,
    ViewsReady,
)
from synchuman.serving import folders
from synchuman.serving.auth import LOCAL
from synchuman.serving.feed import Message
from synchuman.serving.jobs import Job, JobRequest, ServiceError, State
from synchuman.serving.runner import TICK, Busy, Tick, Waiting
from synchuman.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI, Request

    from synchuman.serving.service import Service

LOGGER = logging.getLogger(__name__)

FILES = "/files/"  # in the address of a file, before its name


class ServiceRunner:
    """What the page asks for runs (see `runner.Runner`), answered by the service."""

    def __init__(self, service: Service) -> None:
        """Run on a service."""
        self.service = service
        self._sessions: dict[str, Job] = {}

    @property
    def ready(self) -> bool:
        """Whether a worker has its networks."""
        return any(worker.engine.status == "ready" for worker in self.service.workers)

    def run(
        self,
        session: str,
        photo: bytes,
        settings: Settings,
        person: int | None = None,
        owner: str | None = None,
    ) -> Iterator[Event | Waiting | Tick]:
        """Run a photo and tell how it goes; closing the iterator stops the run.

        A session has one run: a new one stops the one before.

        Raises:
            PhotoError: The photo cannot be used.
            Busy: No job can be taken now.
            Cancelled: The session stopped it.
            ValueError: It failed; the message says why.
        """
        self.cancel(session)
        job = self._submit(photo, settings, person, owner or LOCAL)
        self._sessions[session] = job
        folder = self.service.folder(job)
        try:
            for message in self.service.follow_here(job, TICK):
                event = self._idle(job) if message is None else _event(message, folder)
                if event is not None:
                    yield event
            yield self._ended(self.service.get(job.id), folder)
        finally:
            if self._sessions.get(session) is job:
                del self._sessions[session]
            self._stop(job)

    def cancel(self, session: str) -> bool:
        """Ask the session's run to stop at its next step; False when it has none."""
        job = self._sessions.get(session)
        return job is not None and self._stop(job)

    def _submit(self, photo: bytes, settings: Settings, person: int | None, owner: str) -> Job:
        cleaned = folders.clean_photo(io.BytesIO(photo))
        request = JobRequest(settings=settings, person=person)
        try:
            return self.service.submit(owner, request, cleaned, unlimited=owner == LOCAL)[0]
        except ServiceError as error:
            raise Busy(str(error)) from None

    def _stop(self, job: Job) -> bool:
        try:
            self.service.cancel(job)
        except ServiceError:  # it is over, or gone
            return False
        return True

    def _idle(self, job: Job) -> Waiting | Tick:
        place = self.service.places_in_line().get(job.id)
        if place is None:
            return Tick()
        running = sum(worker.job is not None for worker in self.service.workers)
        return Waiting(place["position"] - 1 + running, not self.ready)

    def _ended(self, job: Job, folder: Path) -> Done:
        if job.state is State.CANCELLED:
            raise Cancelled("The run was stopped.")
        if job.state is State.INTERRUPTED:
            raise ValueError("The server was stopped meanwhile. Please try again.")
        if job.failure is not None:
            kind = PhotoError if job.failure.code == "bad_photo" else ValueError
            raise kind(job.failure.message)
        result = job.result
        said = () if result["fallback"] is None else (result["fallback"],)
        return Done(
            folder=folder,
            glb=folder / result["glb"],
            seconds=result["seconds"],
            faces=result["faces"],
            peak_memory=result["peak_memory"],
            warnings=tuple(dict.fromkeys((*result["warnings"], *said))),
            stage2=result["mode"] == "full",
        )


def mount_page(service: Service) -> Callable[[FastAPI], None]:
    """Return what adds the page to the service's application, at its root."""
    cache = service.places.root / "cache"
    cache.mkdir(exist_ok=True, mode=0o700)
    # Read by Gradio when it is imported.
    os.environ.update(GRADIO_TEMP_DIR=str(cache), GRADIO_ANALYTICS_ENABLED="False")

    def mount(app: FastAPI) -> None:
        import gradio as gr

        from synchuman.serving.agents import Endpoints, keep_tools, refuse_addresses
        from synchuman.serving.launch import MAX_QUEUE
        from synchuman.serving.page import CSS, EXAMPLES, build_page, theme
        from synchuman.serving.sweep import keep_swept

        keep_swept([cache], service.limits.keep_seconds)
        page = build_page(ServiceRunner(service))
        refuse_addresses()
        with page:
            Endpoints(service, app, cache).add()
        page.queue(max_size=MAX_QUEUE)
        gr.mount_gradio_app(
            app,
            page,
            path="/",
            auth_dependency=_name,
            theme=theme(),
            css_paths=CSS,
            allowed_paths=[str(EXAMPLES), str(service.places.jobs)],
            max_file_size=service.limits.max_upload,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            ssr_mode=False,
            show_error=True,
            mcp_server=True,
        )
        keep_tools(page)

    return mount


def _name(request: Request) -> str | None:
    """Return who the guard let in."""
    identity = request.scope.get("state", {}).get("identity")
    return None if identity is None else identity.name


def _event(message: Message, folder: Path) -> Event | None:
    data: dict[str, Any] = message.data
    match message.name:
        case "progress":
            return Progress(data["stage"], data["step"], data["total"], data["eta"], tuple(data["stages"]))
        case "cutout":
            return CutoutReady(_image(folder, data["url"]))
        case "views":
            return ViewsReady(_views(folder, data["colors"]), _views(folder, data["normals"]), data["final"])
        case "coarse":
            return CoarseMeshReady(_path(folder, data["url"]))
    return None


def _views(folder: Path, addresses: list[str]) -> np.ndarray:
    """Read views as they are stored: two of them mirrored, other than what was saved to look at."""
    import numpy as np

    from synchuman.views import VIEWS

    images = [_image(folder, address) for address in addresses]
    return np.stack([image[:, ::-1] if view.mirrored else image for image, view in zip(images, VIEWS)])


def _image(folder: Path, address: str) -> np.ndarray:
    import numpy as np
    from PIL import Image

    with Image.open(_path(folder, address)) as image:
        return np.asarray(image)


def _path(folder: Path, address: str) -> Path:
    return folder / address.split(FILES, 1)[1]
