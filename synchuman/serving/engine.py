"""The server's side of the process that computes: starts it, feeds it one job, notices when it dies."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synchuman.serving.jobs import Failure, Job, State
from synchuman.serving.options import ServiceOptions

LOGGER = logging.getLogger(__name__)

POLL = 0.1  # seconds between two looks at the stop flag
GRACE = 60.0  # seconds that a stopped run may take to its next step before its process is ended
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
NO_STAGE2 = "These weights have no Stage 2; the model is made of Stage 1 alone."
SECRET_PREFIX = "SYNCHUMAN_"  # of the environment; the process that opens photos needs none of it
KEPT = "SYNCHUMAN_HOME"  # but where downloaded weights are


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: DONE, FAILED or CANCELLED.
        result: When done: `glb` (name in the folder), `mode` ("full" or "stage1_only"), `seconds` per
            stage, `faces`, `peak_memory` in bytes, `warnings`, `fallback` (why Stage 2 is missing, or None).
        failure: When failed.
    """

    state: State
    result: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


class EngineBroken(Exception):
    """The process cannot be brought up; the message says why."""


class EngineLost(Exception):
    """What computed is gone through no fault of the job, which may run again elsewhere."""


Report = Callable[[str, dict[str, Any]], None]


def child_arguments(options: ServiceOptions, device: str, locks: Path) -> list[str]:
    """Return what `engine_child` is started with.

    Args:
        options: Of the service: which weights, and how they are placed.
        device: See `SyncHuman.load`.
        locks: Folder of the files that stand for devices.
    """
    arguments = ["--variant", options.variant, "--device", device, "--dtype", options.dtype]
    arguments += ["--placement", options.placement, "--locks", str(locks)]
    return arguments + (["--stage2-device", options.stage2_device] if options.stage2_device else [])


class Engine:
    """One process on one device. Used by one worker's thread; `status` and `about` may be read by any."""

    def __init__(self, device: str, max_seconds: float, arguments: Sequence[str] = ()) -> None:
        """Describe the process; `start` brings it up.

        Args:
            device: See `SyncHuman.load`.
            max_seconds: Longest run; a longer one is ended.
            arguments: What `engine_child` is started with, see `child_arguments`.
        """
        self.device = device
        self.status = "starting"
        self.about: dict[str, Any] = {}
        self.broken: str | None = None
        self.starts = 0
        # While it starts: `stage` ("download", in MiB, or "weights"), `step`, `total`, `eta` in seconds.
        self.loading: dict[str, Any] | None = None
        self._arguments = tuple(arguments)
        self._max_seconds = max_seconds
        self._process: subprocess.Popen[str] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self, stop: threading.Event) -> None:
        """Bring the process up unless it is, and wait until its networks are loaded.

        Raises:
            EngineBroken: It cannot be; `stop` being set is a reason, too.
        """
        if self._alive():
            return
        self._spawn()
        while True:
            try:
                message = self._messages.get(timeout=POLL)
            except queue.Empty:
                if stop.is_set():
                    raise EngineBroken("The server is shutting down.") from None
                continue
            what = None if message is None else message.pop("what")
            if message is not None and what == "loading":
                self.loading = message
                continue
            self.loading = None
            if message is not None and what == "ready":
                self.status, self.about, self.broken = "ready", message, None
                return
            self.broken = (message or {}).get("message", f"The worker ended while starting{self._how()}.")
            self.close()
            self.status = "broken"
            raise EngineBroken(self.broken)

    def admit(self, job: str) -> None:
        """Hear of a job in the thread of its request; a process of its own needs nothing of that."""

    def run(self, job: Job, folder: Path, stop: threading.Event, report: Report) -> Outcome:
        """Run a job to its end.

        Args:
            job: What to do.
            folder: The job's folder, with the photo in it.
            stop: Set it to stop at the next step.
            report: Called with every event's name and data.

        Raises:
            EngineLost: Another machine computed, and is gone.
        """
        self._send(id=job.id, request=job.request.model_dump(mode="json"), folder=str(folder))
        began = time.monotonic()
        stopped: float | None = None
        late = False
        while True:
            now = time.monotonic()
            late = late or now - began > self._max_seconds
            if stopped is None and (stop.is_set() or late):
                stopped = now
                self._send(stop=job.id)
            if stopped is not None and now - stopped > GRACE:
                LOGGER.warning("job %s did not stop; its worker is ended", job.id)
                self.close()
                return self._ended(late)
            try:
                message = self._messages.get(timeout=POLL)
            except queue.Empty:
                continue
            if message is None:
                how = self._gone()
                return self._ended(late) if stopped is not None else self._died(how)
            what = message.pop("what")
            # Whoever computes on the device before us is not counted against the run.
            began = math.inf if what == "waiting" else min(began, time.monotonic())
            if what == "cancelled":
                return self._ended(late)
            if what == "failed":
                return _failed(message["code"], message["message"])
            if what == "done":
                return _done(job, message)
            report(what, message)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        self.status = "starting"

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _gone(self) -> str:
        """Take note that nothing computes any more; return how it ended."""
        how = self._how()
        self.status = "starting"
        self._process = None
        return how

    def _died(self, how: str) -> Outcome:
        LOGGER.error("the worker ended during a job%s", how)
        return _failed("worker_died", f"The process that computes ended{how}. Most likely memory ran out.")

    def _ended(self, late: bool) -> Outcome:
        if not late:
            return Outcome(State.CANCELLED)
        return _failed("timeout", f"The run took longer than the {self._max_seconds:.0f} seconds allowed.")

    def _spawn(self) -> None:
        self.status = "starting"
        self.starts += 1
        clean = {
            name: value
            for name, value in os.environ.items()
            if name == KEPT or not name.startswith(SECRET_PREFIX)
        }
        path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), clean.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "synchuman.serving.engine_child", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**clean, "PYTHONPATH": path},
        )
        self._process, self._messages = process, queue.SimpleQueue()
        threading.Thread(
            target=_read, args=(process, self._messages), name="worker output", daemon=True
        ).start()

    def _send(self, **command: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError:
            LOGGER.info("the worker is gone; its output ends, too")

    def _how(self) -> str:
        if self._process is None:
            return ""
        code = self._process.wait()
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"


def _read(process: subprocess.Popen[str], messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        messages.put(json.loads(line))
    messages.put(None)


def _failed(code: str, message: str) -> Outcome:
    return Outcome(State.FAILED, failure=Failure(code, message))


def _done(job: Job, message: dict[str, Any]) -> Outcome:
    mode = "full" if message.pop("stage2") else "stage1_only"
    less = mode == "stage1_only" and not job.request.stage1_only
    fallback = message.pop("fallback") or (NO_STAGE2 if less else None)
    return Outcome(State.DONE, {**message, "mode": mode, "fallback": fallback})
