"""The process that computes: owns the networks and the device, runs one job after the other.

It reads commands as lines of JSON from its standard input and writes what happens as lines of JSON. When the
input ends, its server is gone, however that happened: it exits at once and with it go device and memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
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
from synchuman.runfolder import RunFolderError
from synchuman.serving.jobs import PHOTO, JobRequest, Kind

if TYPE_CHECKING:
    import torch

    from synchuman.pipeline import SyncHuman

LOGGER = logging.getLogger(__name__)

Tell = Callable[..., None]

PREVIEWS = "previews"
# After one of these the CUDA context of the process is lost.
BROKEN_DEVICE = ("illegal memory access", "ECC", "device-side assert", "launch failure", "unspecified launch")
# How torch, the system and threads say it.
NO_MEMORY = ("out of memory", "allocate memory", "can't start new thread", "std::bad_alloc")
OUT_OF_MEMORY = "The memory of this machine is too small for that. Try a smaller texture, or fewer faces."


def main(arguments: list[str] | None = None) -> int:
    """Load the networks, then serve commands until the input ends."""
    parser = argparse.ArgumentParser()
    for name in ("variant", "device", "dtype"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--locks", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="worker: %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Control-C in a terminal reaches the whole group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell = _teller()
    commands = Commands()
    # From the start, so that a server killed meanwhile leaves nothing behind that loads networks.
    threading.Thread(target=commands.listen, name="commands", daemon=True).start()
    try:
        pipeline, about = _load(options.variant, options.device, options.dtype)
    except Exception as error:
        LOGGER.exception("the networks could not be loaded")
        tell("broken", message=f"The networks could not be loaded: {error}")
        return 1
    tell("ready", **about)
    runner = Runner(pipeline, options.locks / f"{_lock_name(pipeline.device)}.lock", tell)
    while True:
        runner.work(*commands.next())


class Commands:
    """What the server says: jobs to run, and the job to stop."""

    def __init__(self) -> None:
        """Wait for the first."""
        self._tasks: queue.SimpleQueue[tuple[dict[str, Any], threading.Event]] = queue.SimpleQueue()
        self._stops: dict[str, threading.Event] = {}

    def listen(self) -> None:
        """Read commands until the server is gone, which ends this process."""
        for line in sys.stdin:
            command = json.loads(line)
            if "stop" in command:
                self._stops[command["stop"]].set()
                continue
            stop = threading.Event()
            self._stops = {command["id"]: stop}
            self._tasks.put((command, stop))
        os._exit(0)

    def next(self) -> tuple[dict[str, Any], threading.Event]:
        """Wait for the next job; return it with the flag that stops it."""
        return self._tasks.get()


class Runner:
    """Runs what it is told, one job at a time, holding the device's lock meanwhile."""

    def __init__(self, pipeline: SyncHuman, lock: Path, tell: Tell) -> None:
        """Serve one pipeline; `lock` is the file that stands for its device."""
        from filelock import FileLock

        self.pipeline = pipeline
        self.tell = tell
        # The kernel frees it with the process, so a killed run never leaves the device locked.
        self._lock = FileLock(lock)

    def work(self, task: dict[str, Any], stop: threading.Event) -> None:
        """Run a job and tell how it ended."""
        try:
            self._take_device(stop)
            try:
                self._run(JobRequest.model_validate(task["request"]), Path(task["folder"]), stop)
            finally:
                _free_memory()
                self._lock.release()
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

    def _take_device(self, stop: threading.Event) -> None:
        from filelock import Timeout

        waited = False
        while True:
            if stop.is_set():
                raise Cancelled("The job was stopped before it started.")
            try:
                self._lock.acquire(timeout=0.2)
            except Timeout:
                if not waited:
                    self.tell("waiting", reason="Another process computes on this device.")
                waited = True
                continue
            return

    def _run(self, request: JobRequest, folder: Path, stop: threading.Event) -> None:
        coarse: Path | None = None
        done: Done | None = None
        try:
            # To the very end: the run writes its record after its last event.
            for event in self._events(request, folder, stop):
                if isinstance(event, Done):
                    done = event
                    continue
                self._report(event, folder)
                if isinstance(event, CoarseMeshReady):
                    coarse = event.path
        except (Cancelled, PhotoError, RunFolderError):
            raise
        except Exception as error:
            code, message = explain(error)
            if not (request.graceful_fallback and coarse and coarse.is_file()) or code == "device_lost":
                raise
            LOGGER.error("Stage 2 failed; Stage 1's model is delivered instead", exc_info=error)
            self.tell("fallback", glb=_inside(coarse, folder), reason=message)
            return
        assert done is not None, "a run ends with Done or an error"
        self.tell(
            "done",
            glb=_inside(done.glb, folder),
            seconds=done.seconds,
            faces=done.faces,
            peak_memory=done.peak_memory,
            warnings=list(done.warnings),
        )

    def _events(self, request: JobRequest, folder: Path, stop: threading.Event) -> Iterator[Event]:
        settings = request.settings
        if request.kind is Kind.GENERATE:
            photo = (folder / PHOTO).read_bytes()
            return self.pipeline.run(photo, settings, folder, stop, request.person)
        return self.pipeline.resume(settings, folder, stop)

    def _report(self, event: Event, folder: Path) -> None:
        match event:
            case Progress():
                self.tell("progress", stage=event.stage, step=event.step, total=event.total, eta=event.eta)
            case CutoutReady():
                self.tell("cutout", file=_save(event.image, folder, "cutout"))
            case ViewsReady():
                self.tell("views", final=event.final, files=_save_views(event, folder))
            case CoarseMeshReady():
                self.tell("coarse", file=_inside(event.path, folder))


def explain(error: Exception) -> tuple[str, str]:
    """Return a code for programs and a sentence for people about what broke a run."""
    text = str(error)
    if any(sign in text for sign in BROKEN_DEVICE) and "CUDA" in text:
        return "device_lost", "The GPU reported an error and is being restarted. Please try again."
    if isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return "out_of_memory", OUT_OF_MEMORY
    if isinstance(error, OSError):
        from errno import EDQUOT, ENOSPC

        if error.errno in (ENOSPC, EDQUOT):
            return "disk_full", "The disk of the server is full. Please try again later."
        return "io_error", f"The server could not read or write a file: {error.strerror or 'unknown reason'}."
    if isinstance(error, ValueError):
        return "bad_request", text
    return "internal", "Something went wrong on our side. Please try again."


def _load(variant: str, device: str, dtype: str) -> tuple[SyncHuman, dict[str, Any]]:
    from synchuman.photo import warm_up
    from synchuman.pipeline import SyncHuman

    pipeline = SyncHuman.load(variant, device, dtype)
    warm_up()
    about = {"device": str(pipeline.device), "dtype": str(pipeline.dtype).removeprefix("torch.")}
    return pipeline, {**about, "gpu": _gpu_name(pipeline.device)}


def _teller() -> Tell:
    """Return the function that writes to the server; whatever libraries print goes to the log instead."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(what: str, **data: Any) -> None:
        with lock:
            out.write(json.dumps({"what": what, **data}) + "\n")
            out.flush()

    return tell


def _lock_name(device: torch.device) -> str:
    import torch

    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    # Numbers depend on CUDA_VISIBLE_DEVICES; the identifier is the card's own.
    return f"cuda-{getattr(properties, 'uuid', device.index or 0)}"


def _gpu_name(device: torch.device) -> str | None:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:  # after a lost device this raises the same error once more
            LOGGER.warning("memory of the device could not be freed: %s", type(error).__name__)


def _save_views(event: ViewsReady, folder: Path) -> dict[str, list[str]]:
    """Save views as a camera would see them (two are stored mirrored), and return their names."""
    from synchuman.views import VIEWS

    return {
        kind: [
            _save(image[:, ::-1] if view.mirrored else image, folder, f"{kind}_{view.name}")
            for image, view in zip(images, VIEWS)
        ]
        for kind, images in (("colors", event.colors), ("normals", event.normals))
    }


def _save(image: Any, folder: Path, name: str) -> str:
    import numpy as np
    from PIL import Image

    path = folder / PREVIEWS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers see the picture before or this one, never half of it.
    beside = path.with_name(f".{name}.part")
    Image.fromarray(np.ascontiguousarray(image)).save(beside, "PNG", compress_level=1)
    os.replace(beside, path)
    return _inside(path, folder)


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


if __name__ == "__main__":
    sys.exit(main())
