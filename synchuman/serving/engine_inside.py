"""An engine in the server's own process, for ZeroGPU: there the card is lent to functions of that process."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synchuman.serving.engine import Engine
from synchuman.serving.runner import Runner

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman

KEPT_CONTEXTS = 256  # more than ever wait in line


class InsideEngine(Engine):
    """Runs jobs in threads of this process. Used by one worker's thread, but for `admit`."""

    def __init__(self, pipeline: SyncHuman, about: dict[str, Any], lock: Path, max_seconds: float) -> None:
        """Take over a pipeline that is loaded: ZeroGPU wants that before the page opens.

        Args:
            pipeline: Whose stages borrow the card, see `zerogpu.lend`.
            about: What is told of it, see `engine_load.load_pipeline`.
            lock: File that stands for the device.
            max_seconds: Longest run; a longer one is stopped.
        """
        super().__init__(str(pipeline.device), max_seconds)
        self.status, self.about, self.starts = "ready", about, 1
        self._runner = Runner(pipeline, [lock], self._tell)
        self._stops: dict[str, threading.Event] = {}
        self._contexts: OrderedDict[str, contextvars.Context] = OrderedDict()

    def admit(self, job: str) -> None:
        """Keep the context of the request that brought a job: it says whose quota the card counts against."""
        self._contexts[job] = contextvars.copy_context()
        while len(self._contexts) > KEPT_CONTEXTS:
            self._contexts.popitem(last=False)

    def close(self) -> None:
        """Stop what runs; nothing else can be ended without the server."""
        for stop in list(self._stops.values()):
            stop.set()

    def _alive(self) -> bool:
        return True

    def _send(self, **command: Any) -> None:
        if "stop" in command:
            self._stops[command["stop"]].set()
            return
        job = command["id"]
        stop = self._stops[job] = threading.Event()
        self._messages = queue.SimpleQueue()
        context = self._contexts.pop(job, None) or contextvars.copy_context()

        def work() -> None:
            try:
                context.run(self._runner.work, command, stop)
            finally:
                self._stops.pop(job, None)

        threading.Thread(target=work, name="run", daemon=True).start()

    def _tell(self, what: str, **data: Any) -> None:
        self._messages.put({"what": what, **data})
