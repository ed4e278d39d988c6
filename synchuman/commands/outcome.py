"""How a command ends: an exit code for shells, a sentence for people, JSON for programs."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from synchuman.exit_codes import BAD_INPUT, FAILED, STOPPED

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Problem:
    """Why a command did not do what it was asked.

    Attributes:
        code: For programs.
        message: A sentence for people; says what to do.
        exit: The exit code that goes with it.
    """

    code: str
    message: str
    exit: int = BAD_INPUT

    @property
    def state(self) -> str:
        """Return how a run ended that had this problem; names as the service has them."""
        return "cancelled" if self.exit == STOPPED else "failed"

    def show(self, console: Console) -> None:
        """Say it to people."""
        style = "yellow" if self.exit == STOPPED else "red"
        console.print(self.message, style=style, highlight=False)

    def told(self) -> dict[str, str]:
        """Return it as JSON tells it."""
        return {name: value for name, value in asdict(self).items() if name != "exit"}


def problem_of(error: BaseException) -> Problem | None:
    """Return what is to be said of an error that users can meet; None for one that is a bug of ours."""
    from pydantic import ValidationError

    from synchuman.events import Cancelled, PhotoError
    from synchuman.runfolder import RunFolderError
    from synchuman.serving.cluster import ClusterError
    from synchuman.serving.failures import explain
    from synchuman.weights.hub import HubError

    match error:
        case Cancelled() | KeyboardInterrupt():
            return Problem("stopped", "Stopped.", STOPPED)
        case ValidationError():
            lines = [f"--{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()]
            return Problem("invalid", "\n".join(lines))
        case PhotoError():
            return Problem("bad_photo", str(error))
        case ClusterError():
            return Problem("cluster", str(error))
        case HubError():
            return Problem("no_weights", str(error), FAILED)
        case RunFolderError():
            return Problem("bad_run", str(error))
        case FileNotFoundError() | IsADirectoryError() | NotADirectoryError() | PermissionError():
            named = error.filename is not None
            return Problem("bad_input", f"{error.filename}: {error.strerror}." if named else str(error))
        case KeyError() | ValueError():
            return Problem("bad_input", str(error.args[0] if isinstance(error, KeyError) else error))
        case Exception():
            code, message = explain(error)
            return None if code == "internal" else Problem(code, message, FAILED)
    return None


def explained(error: BaseException, console: Console) -> Problem:
    """Return what is to be said of any error, while it is handled; of a bug the traceback is printed."""
    problem = problem_of(error)
    if problem is not None:
        return problem
    console.print_exception()
    return Problem("internal", "Something went wrong on our side; the traceback says where.", FAILED)


def say(data: dict[str, Any]) -> None:
    """Write JSON to the standard output, where programs read it; people read the standard error."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that the first Control-C or SIGTERM sets, so that a run stops at its next step.

    A second one interrupts at once.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
