"""What runs in the cluster: an actor with the networks, one run at a time, its events and files streamed."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synchuman import __version__
from synchuman.device_turn import device_files
from synchuman.serving.cluster.parcel import Files, Outbox, unpack
from synchuman.serving.runner import Runner

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman

Message = dict[str, Any]
Load = Callable[..., tuple["SyncHuman", dict[str, Any]]]  # called with what `Model` has

ENDS = ("done", "failed", "cancelled")
BRING_FILES = ("cutout", "views", "coarse", "done")


class Model(NamedTuple):
    """Which networks an actor loads, and where on its machine they run: see `SyncHuman.load`."""

    variant: str
    device: str = "auto"
    dtype: str = "auto"
    placement: str = "auto"
    stage2_device: str | None = None


class PipelineActor:
    """Owns the networks and its card. Ray calls `run` and, in another thread, `stop`."""

    def __init__(self, load: Load, model: Model) -> None:
        """Load networks; see `engine_load.load_pipeline`, which `load` usually is."""
        self._scratch = Path(tempfile.mkdtemp(prefix="synchuman-actor-"))
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stops: dict[str, threading.Event] = {}
        pipeline, self._about = load(*model)
        self._runner = Runner(pipeline, self._device_files(pipeline), self._tell)

    def about(self) -> dict[str, Any]:
        """Tell device and number type, the machine's name, and the version that runs here."""
        import socket

        return {**self._about, "node": socket.gethostname(), "version": __version__}

    def run(self, job: str, request: dict[str, Any], files: Files) -> Iterator[tuple[Message, Files]]:
        """Run a job.

        Args:
            job: Its id.
            request: A `JobRequest` as JSON has it.
            files: What is in its folder.

        Yields:
            Messages as `Runner` tells them, each with the files that are new; the last one is the end.
        """
        folder = self._scratch / job
        stop = self._stops.setdefault(job, threading.Event())
        task = {"id": job, "request": request, "folder": str(folder)}
        try:
            folder.mkdir()
            unpack(files, folder)
            outbox = Outbox(folder)
            threading.Thread(target=self._runner.work, args=(task, stop), name="run", daemon=True).start()
            while True:
                message = self._told.get()
                yield message, outbox.new() if message["what"] in BRING_FILES else {}
                if message["what"] in ENDS:
                    return
        finally:
            stop.set()
            self._stops.pop(job, None)
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self, job: str) -> None:
        """Stop a job at its next step, also one that has not begun."""
        self._stops.setdefault(job, threading.Event()).set()

    def _tell(self, what: str, **data: Any) -> None:
        self._told.put({"what": what, **data})

    def _device_files(self, pipeline: SyncHuman) -> list[Path]:
        """Return what stands for the card, shared with services beside the cluster; Ray shares CPUs."""
        cards = [device for device in pipeline.devices if device.type == "cuda"]
        others = [device for device in pipeline.devices if device.type != "cuda"]
        return [*device_files(cards), *device_files(others, self._scratch)]
