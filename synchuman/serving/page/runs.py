"""The page's runs are the service's jobs: started, followed, stopped, opened again."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
from synchuman.runfolder import RunFolder
from synchuman.serving import folders
from synchuman.serving.auth import ANONYMOUS, Identity
from synchuman.serving.engine import NO_STAGE2
from synchuman.serving.feed import Message
from synchuman.serving.jobs import Job, JobRequest, Kind, NotFound, ServiceError, State
from synchuman.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from synchuman.serving.service import Service

FILES = "/files/"  # in the address of a file, before its name
TICK = 0.5  # seconds between two signs of life while a step takes long
# Seconds that a run goes on when its page has gone: a phone that sleeps or a page loaded anew comes back.
LEFT_ALONE = 90.0
HISTORY = 24  # runs shown


@dataclass(frozen=True)
class Started:
    """The run has a name."""

    job: Job


@dataclass(frozen=True)
class Waiting:
    """The run has not started: `ahead` runs come first, or the weights are still being read (`loading`)."""

    ahead: int
    loading: bool


@dataclass(frozen=True)
class Tick:
    """Nothing new; time goes by."""


class Busy(Exception):
    """No run can be taken now; the message says why."""


Told = Event | Started | Waiting | Tick


class Runs:
    """What the page asks of the service. `who` is always the name that the guard let in."""

    def __init__(self, service: Service) -> None:
        """Run on a service."""
        self.service = service
        self._sessions: dict[str, Job] = {}
        self._readers: Counter[str] = Counter()
        self._guard = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether a worker has its networks."""
        return any(worker.engine.status == "ready" for worker in self.service.workers)

    def generate(
        self, session: str, who: str, photo: bytes, settings: Settings, person: int | None = None
    ) -> Iterator[Told]:
        """Run a photo; see `follow`.

        Raises:
            PhotoError: The photo cannot be used.
            Busy: No job can be taken now.
        """
        self.cancel(session)
        cleaned = folders.clean_photo(io.BytesIO(photo))
        request = JobRequest(settings=settings, person=person)
        return self.follow(session, self._submit(who, request, cleaned))

    def retexture(self, session: str, who: str, job_id: str, settings: Settings) -> Iterator[Told]:
        """Make a new run of a finished one with other faces and texture, without sampling; see `follow`.

        Raises:
            NotFound: There is no such job of theirs.
            Busy: No job can be taken now.
        """
        parent = self.find(who, job_id)
        self.cancel(session)
        request = JobRequest(
            kind=Kind.RETEXTURE,
            settings=settings,
            stage1_only=parent.result.get("mode") == "stage1_only",
            parent=parent.id,
        )
        return self.follow(session, self._submit(who, request, None))

    def open(self, session: str, who: str, job_id: str) -> Iterator[Told]:
        """Show a run again, or go on watching it; see `follow`.

        Raises:
            NotFound: There is no such job of theirs.
        """
        return self.follow(session, self.find(who, job_id))

    def follow(self, session: str, job: Job) -> Iterator[Told]:
        """Tell how a run goes, and what came out.

        A session has one run: a new one stops the one before. A run that nobody watches any more is stopped
        after `LEFT_ALONE` seconds.

        Raises:
            PhotoError: The photo cannot be used.
            Cancelled: Somebody stopped it.
            ValueError: It failed; the message says why.
        """
        folder = self.service.folder(job)
        yield Started(job)
        if not job.active:
            yield from self._again(job, folder)
            return
        with self._guard:
            self._sessions[session] = job
            self._readers[job.id] += 1
        try:
            for message in self.service.follow_here(job, TICK):
                event = self._idle(job) if message is None else _event(message, folder)
                if event is not None:
                    yield event
            yield self._ended(self.service.get(job.id), folder)
        finally:
            self._leave(session, job)

    def cancel(self, session: str) -> bool:
        """Ask the session's run to stop at its next step; False when it has none."""
        job = self._sessions.get(session)
        return job is not None and self._stop(job)

    def goes_on(self, session: str, besides: str | None = None) -> bool:
        """Whether the session has a run that goes on, other than the job `besides`."""
        job = self._sessions.get(session)
        return job is not None and job.id != besides

    def find(self, who: str, job_id: str) -> Job:
        """Return a job that this person may see.

        Raises:
            NotFound: There is none.
        """
        return _identity(who).require(self.service.get(job_id))

    def mine(self, who: str) -> list[Job]:
        """Return the finished and going runs of a person, newest first; strangers are not told apart."""
        if not _identity(who).known:
            return []
        jobs = self.service.store.page(who, None, 4 * HISTORY, None)
        return [job for job in jobs if job.state is State.DONE or job.active][:HISTORY]

    def some(self, who: str, ids: list[str]) -> list[Job]:
        """Return those of some jobs that are there and may be seen, in the order of `ids`."""
        found = []
        for job_id in ids[:HISTORY]:
            try:
                job = self.find(who, job_id)
            except NotFound:
                continue
            if job.state is State.DONE or job.active:
                found.append(job)
        return found

    def delete(self, who: str, job_id: str) -> None:
        """Delete a run with all its files.

        Raises:
            NotFound: There is no such job of theirs.
        """
        self.service.delete(self.find(who, job_id))

    def folder(self, job: Job) -> RunFolder:
        """Return a job's files."""
        return RunFolder(self.service.folder(job))

    def _submit(self, who: str, request: JobRequest, photo: bytes | None) -> Job:
        try:
            return self.service.admission.submit(who, request, photo, unlimited=_identity(who).unlimited)[0]
        except ServiceError as error:
            raise Busy(str(error)) from None

    def _stop(self, job: Job) -> bool:
        try:
            self.service.cancel(job)
        except ServiceError:  # it is over, or gone
            return False
        return True

    def _leave(self, session: str, job: Job) -> None:
        with self._guard:
            if self._sessions.get(session) is job:
                del self._sessions[session]
            self._readers[job.id] -= 1
            alone = self._readers[job.id] <= 0
            if alone:
                del self._readers[job.id]
        if alone and self.service.follow(job) is not None:
            timer = threading.Timer(LEFT_ALONE, self._stop_if_alone, (job,))
            timer.daemon = True
            timer.start()

    def _stop_if_alone(self, job: Job) -> None:
        if job.id not in self._readers:
            self._stop(job)

    def _idle(self, job: Job) -> Waiting | Tick:
        place = self.service.line.place(job)
        if not place:
            return Tick()
        running = sum(worker.job is not None for worker in self.service.workers)
        return Waiting(place["position"] - 1 + running, not self.ready)

    def _again(self, job: Job, folder: Path) -> Iterator[Event]:
        done = self._ended(job, folder)
        rgba, colors, normals = RunFolder(folder).read_views()
        yield CutoutReady(rgba)
        yield ViewsReady(colors, normals, final=True)
        yield done

    def _ended(self, job: Job, folder: Path) -> Done:
        if job.state is State.CANCELLED:
            raise Cancelled("The run was stopped.")
        if job.state is State.INTERRUPTED:
            raise ValueError("The server was stopped meanwhile. Please try again.")
        if job.failure is not None:
            kind = PhotoError if job.failure.code == "bad_photo" else ValueError
            raise kind(job.failure.message)
        result = job.result
        # That weights have no Stage 2 is among the warnings already.
        said = () if result["fallback"] in (None, NO_STAGE2) else (result["fallback"],)
        return Done(
            folder=folder,
            glb=folder / result["glb"],
            seconds=result["seconds"],
            faces=result["faces"],
            peak_memory=result["peak_memory"],
            warnings=tuple(dict.fromkeys((*result["warnings"], *said))),
            stage2=result["mode"] == "full",
        )


def _identity(who: str) -> Identity:
    from synchuman.serving.auth import LOCAL

    return Identity(who, known=not who.startswith(ANONYMOUS), unlimited=who == LOCAL)


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
