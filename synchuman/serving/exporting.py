"""Other files of finished jobs, made in a process of their own: what breaks there breaks nothing here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman import exports
from synchuman.exit_codes import BAD_INPUT
from synchuman.runfolder import RunFolderError
from synchuman.serving import folders
from synchuman.serving.engine import PACKAGE_ROOT, SECRET_PREFIX
from synchuman.serving.jobs import Conflict, DiskFull, Job, NotFound, NotReady, ServiceError, State

if TYPE_CHECKING:
    from synchuman.serving.core import ServiceCore

LOGGER = logging.getLogger(__name__)

MAX_SECONDS = 300.0
GONE = "The files of that job are gone."
POLL = 0.1  # seconds between two looks at the stop flag


class ExportRefused(ServiceError):
    """The format, its options or the model do not go together; the message says what does."""

    status, code = 422, "export_refused"


class ExportFailed(ServiceError):
    """The file could not be made; the server's log says why."""

    status, code = 500, "export_failed"


class Exporter:
    """Makes one file at a time. All methods may be called from any thread."""

    def __init__(self, service: ServiceCore) -> None:
        """Work for a service."""
        self.service = service
        self._one = threading.Lock()

    def offers(self, job: Job) -> list[exports.Offer]:
        """List all kinds of files, with those that are there already and those that cannot be made.

        Raises:
            Conflict: The job is not done.
            NotFound: Its files are gone.
        """
        try:
            return exports.offers(self._folder(job))
        except RunFolderError:
            raise NotFound(GONE) from None

    def find(
        self, job: Job, name: str, texture: str | None = None, height: float | None = None
    ) -> Path | None:
        """Return a file that was made before, None when it is still to be made; otherwise as `get`."""
        try:
            path, there = exports.find(self._folder(job), name, texture, height)
        except exports.ExportError as error:
            raise ExportRefused(str(error)) from None
        except RunFolderError:
            raise NotFound(GONE) from None
        return path if there else None

    def get(self, job: Job, name: str, texture: str | None = None, height: float | None = None) -> Path:
        """Return a file of a finished job's model; when it is first asked for it is made, in up to a minute.

        Args:
            job: The job.
            name: One of `exports.FORMATS`.
            texture: "jpeg", "png" or "webp", where the format has a choice; None for its first.
            height: Height of the person in metres, where the format has one; None for 1.7.

        Raises:
            Conflict: The job is not done.
            ExportRefused: There is no such format, the choice does not go with it, or the run lacks a part.
            NotFound: The job's files are gone.
            DiskFull: There is no room.
            NotReady: The server is shutting down.
            ExportFailed: It failed, or took too long.
        """
        with self._one:
            if (there := self.find(job, name, texture, height)) is not None:
                return there
            if self.service.free_bytes() < self.service.limits.min_free:
                raise DiskFull("The disk of the server is nearly full. Please try again later.")
            folder = self.service.folder(job)
            self._run(folder, name, texture, height)
            self.service.store.change(job.id, only=[State.DONE], size=folders.size(folder))
            there = self.find(job, name, texture, height)
        if there is None:
            raise ExportFailed("The model changed meanwhile. Please try again.")
        return there

    def _folder(self, job: Job) -> Path:
        if job.state is not State.DONE:
            raise Conflict(f"The job is {job.state.value}; it has files to give when it is done.")
        return self.service.folder(job)

    def _run(self, folder: Path, name: str, texture: str | None, height: float | None) -> None:
        command = [sys.executable, "-m", "synchuman", "export", str(folder), "--format", name]
        command += [] if texture is None else ["--texture", texture]
        command += [] if height is None else ["--height", repr(height)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIX)}
        path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), clean.get("PYTHONPATH"))))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**clean, "PYTHONPATH": path},
        )
        said = self._wait(process, name)
        if process.returncode == BAD_INPUT:
            # Users know jobs, not where they are kept.
            raise ExportRefused(said.strip().replace(str(folder), "the run"))
        if process.returncode:
            LOGGER.error("an export as %s failed with %d: %s", name, process.returncode, said[-2000:])
            raise ExportFailed("The file could not be made. Please try again, or take another format.")

    def _wait(self, process: subprocess.Popen[str], name: str) -> str:
        ends = time.monotonic() + MAX_SECONDS
        while True:
            try:
                return process.communicate(timeout=POLL)[1]
            except subprocess.TimeoutExpired:
                if not self.service.closing.is_set() and time.monotonic() < ends:
                    continue
            process.kill()
            process.communicate()
            if self.service.closing.is_set():
                raise NotReady("The server is shutting down.")
            LOGGER.error("an export as %s took more than %.0f s", name, MAX_SECONDS)
            raise ExportFailed(
                "The file took too long to make. Fewer faces or a smaller texture are quicker."
            )
