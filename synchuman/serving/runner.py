"""Runs jobs on loaded networks, one after the other, and tells what happens as messages."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synchuman.device_turn import turn
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
from synchuman.runfolder import RunFolder, RunFolderError
from synchuman.serving.failures import explain
from synchuman.serving.heap import trim_heap
from synchuman.serving.jobs import PHOTO, JobRequest, Kind
from synchuman.serving.previews import inside, save_picture, save_views

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman

LOGGER = logging.getLogger(__name__)

HOLDER = "a server"

Tell = Callable[..., None]


class Runner:
    """Runs what it is told, one job at a time, with its devices to itself meanwhile."""

    def __init__(self, pipeline: SyncHuman, files: Sequence[Path], tell: Tell) -> None:
        """Serve one pipeline; `files` stand for its devices, see `device_turn`."""
        self.pipeline = pipeline
        self.tell = tell
        self._files = tuple(files)

    def work(self, task: dict[str, Any], stop: threading.Event) -> None:
        """Run a job and tell how it ended."""
        try:
            with turn(self._files, HOLDER, stop, self._wait):
                try:
                    self._run(JobRequest.model_validate(task["request"]), Path(task["folder"]), stop)
                finally:
                    _free_memory()
        except Cancelled:
            self.tell("cancelled")
        except (PhotoError, RunFolderError) as error:
            code = "bad_photo" if isinstance(error, PhotoError) else "bad_run"
            self.tell("failed", code=code, message=str(error))
        except Exception as error:
            LOGGER.error("job %s failed", task["id"], exc_info=error)
            code, message = explain(error)
            self.tell("failed", code=code, message=message)
            if code == "device_lost":
                os._exit(1)

    def _wait(self, holder: str) -> None:
        # Users hear that it is so, the log says who: that is this machine's own business.
        LOGGER.info("waiting for the device: %s computes on it", holder)
        self.tell("waiting", reason="Another process computes on this device.")

    def _run(self, request: JobRequest, folder: Path, stop: threading.Event) -> None:
        reason: str | None = None
        try:
            done = self._follow(self._events(request, folder, stop), folder)
        except (Cancelled, PhotoError, RunFolderError):
            raise
        except Exception as error:
            code, reason = explain(error)
            if code == "device_lost" or not _can_fall_back(request, folder):
                raise
            LOGGER.error("Stage 2 failed; the model is made of Stage 1 instead", exc_info=error)
        if reason is not None:
            # Outside of the handler, where the error would still hold on to what Stage 2 had in memory.
            _free_memory()
            self.tell("fallback", reason=reason)
            again = self.pipeline.resume(request.settings, folder, stop, stage1_only=True)
            done = self._follow(again, folder)
        self.tell(
            "done",
            glb=inside(done.glb, folder),
            seconds=done.seconds,
            faces=done.faces,
            peak_memory=done.peak_memory,
            warnings=list(done.warnings),
            stage2=done.stage2,
            fallback=reason,
        )

    def _follow(self, events: Generator[Event, None, None], folder: Path) -> Done:
        """Tell the events of a run to its very end: it writes its record after its last event."""
        done: Done | None = None
        # When a picture of it cannot be written, the run ends here and now; else it would end when its memory
        # is freed, and write its record into a folder that the server has removed.
        with closing(events):
            for event in events:
                if isinstance(event, Done):
                    done = event
                else:
                    self._report(event, folder)
        assert done is not None, "a run ends with Done or an error"
        return done

    def _events(
        self, request: JobRequest, folder: Path, stop: threading.Event
    ) -> Generator[Event, None, None]:
        settings = request.settings
        if request.kind is Kind.GENERATE:
            photo = (folder / PHOTO).read_bytes()
            return self.pipeline.run(photo, settings, folder, stop, request.person, request.stage1_only)
        if request.kind is Kind.RETEXTURE:
            return self.pipeline.retexture(settings, folder, stop, str(self.pipeline.devices[-1]))
        return self.pipeline.resume(settings, folder, stop, request.stage1_only)

    def _report(self, event: Event, folder: Path) -> None:
        match event:
            case Progress():
                self.tell(
                    "progress",
                    stage=event.stage,
                    step=event.step,
                    total=event.total,
                    eta=event.eta,
                    stages=list(event.stages),
                )
            case CutoutReady():
                self.tell("cutout", file=save_picture(event.image, folder, "cutout"))
            case ViewsReady():
                self.tell("views", final=event.final, files=save_views(event, folder))
            case CoarseMeshReady():
                self.tell("coarse", file=inside(event.path, folder))


def _can_fall_back(request: JobRequest, folder: Path) -> bool:
    """Whether Stage 1 is done, more was asked for, and less is welcome."""
    wanted = request.graceful_fallback and not request.stage1_only and request.kind is not Kind.RETEXTURE
    return wanted and (RunFolder(folder).first / "latent.npz").is_file()


def _free_memory() -> None:
    import torch

    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:  # after a lost device this raises the same error once more
            LOGGER.warning("memory of the device could not be freed: %s", type(error).__name__)
