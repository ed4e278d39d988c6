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
import time
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
from synchuman.runfolder import RunFolder, RunFolderError
from synchuman.serving.failures import explain
from synchuman.serving.jobs import PHOTO, JobRequest, Kind

if TYPE_CHECKING:
    import torch

    from synchuman.pipeline import SyncHuman

LOGGER = logging.getLogger(__name__)

Tell = Callable[..., None]

PREVIEWS = "previews"
LOADING_PAUSE = 1.0  # seconds between two words on a download
NICENESS = 2  # on a CPU that both share, the server answers first


def main(arguments: list[str] | None = None) -> int:
    """Load the networks, then serve commands until the input ends."""
    parser = argparse.ArgumentParser()
    for name in ("variant", "device", "dtype", "placement"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--stage2-device")
    parser.add_argument("--locks", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="worker: %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Control-C in a terminal reaches the whole group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    tell = _teller()
    commands = Commands()
    # From the start, so that a server killed meanwhile leaves nothing behind that loads networks.
    threading.Thread(target=commands.listen, name="commands", daemon=True).start()
    try:
        places = options.placement, options.stage2_device
        pipeline, about = load_pipeline(
            options.variant, options.device, options.dtype, *places, report=_loading_teller(tell)
        )
    except Exception as error:
        LOGGER.exception("the networks could not be loaded")
        tell("broken", message=f"The networks could not be loaded: {error}")
        return 1
    tell("ready", **about)
    runner = Runner(pipeline, options.locks / f"{lock_name(pipeline.device)}.lock", tell)
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
            glb=_inside(done.glb, folder),
            seconds=done.seconds,
            faces=done.faces,
            peak_memory=done.peak_memory,
            warnings=list(done.warnings),
            stage2=done.stage2,
            fallback=reason,
        )

    def _follow(self, events: Iterator[Event], folder: Path) -> Done:
        """Tell the events of a run to its very end: it writes its record after its last event."""
        done: Done | None = None
        for event in events:
            if isinstance(event, Done):
                done = event
            else:
                self._report(event, folder)
        assert done is not None, "a run ends with Done or an error"
        return done

    def _events(self, request: JobRequest, folder: Path, stop: threading.Event) -> Iterator[Event]:
        settings = request.settings
        if request.kind is Kind.GENERATE:
            photo = (folder / PHOTO).read_bytes()
            return self.pipeline.run(photo, settings, folder, stop, request.person, request.stage1_only)
        if request.kind is Kind.RETEXTURE:
            return self.pipeline.retexture(settings, folder, stop)
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
                self.tell("cutout", file=_save(event.image, folder, "cutout"))
            case ViewsReady():
                self.tell("views", final=event.final, files=_save_views(event, folder))
            case CoarseMeshReady():
                self.tell("coarse", file=_inside(event.path, folder))


def _can_fall_back(request: JobRequest, folder: Path) -> bool:
    """Whether Stage 1 is done, more was asked for, and less is welcome."""
    wanted = request.graceful_fallback and not request.stage1_only and request.kind is not Kind.RETEXTURE
    return wanted and (RunFolder(folder).first / "latent.npz").is_file()


def load_pipeline(
    variant: str,
    device: str,
    dtype: str,
    placement: str = "auto",
    stage2_device: str | None = None,
    report: Callable[[Progress], None] = lambda event: None,
) -> tuple[SyncHuman, dict[str, Any]]:
    """Load networks as `SyncHuman.load`, ready to run; return them with what is to be told of them."""
    from synchuman.photo import warm_up
    from synchuman.pipeline import SyncHuman

    pipeline = SyncHuman.load(variant, device, dtype, placement, stage2_device, report)
    warm_up()
    about = {
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "gpu": _gpu_name(pipeline.device),
        "stage2": pipeline.stage2 is not None,
        "structure_decoder": pipeline.stage1.networks.structure_decoder is not None,
    }
    return pipeline, about


def _loading_teller(tell: Tell) -> Callable[[Progress], None]:
    """Return what reports how loading goes; a download reports every chunk, its readers look now and then."""
    told = 0.0

    def report(event: Progress) -> None:
        nonlocal told
        if event.step in (0, event.total) or time.monotonic() - told > LOADING_PAUSE:
            told = time.monotonic()
            tell("loading", stage=event.stage, step=event.step, total=event.total, eta=event.eta)

    return report


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


def lock_name(device: torch.device) -> str:
    """Return the name of the file that stands for a device, without its ending."""
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
