"""What commands that answer in text or JSON share: bars while they work, and how they end."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from synchuman.exit_codes import BAD_INPUT, FAILED, STOPPED

# Exit code, what --json prints, and the lines for people.
Answer = tuple[int, dict[str, Any], list[str]]


class Bars:
    """Progress bars on standard error, one for every stage of `Progress`; nothing with `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description:>9}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
        )
        self._bars = RichProgress(*columns, console=Console(stderr=True), disable=quiet)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def event(self, event: Any) -> None:
        """Show a `Progress`."""
        name = f"{event.stage} MiB" if event.stage == "download" else event.stage
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=event.total, left="")
        left = "" if event.eta is None else f"{event.eta:.0f} s left"
        self._bars.update(self._tasks[name], completed=event.step, total=event.total, left=left)


def answer(options: argparse.Namespace, work: Callable[[argparse.Namespace], Answer]) -> int:
    """Do something, print what it says, and return its exit code; errors are said, not shown as a trace."""
    from synchuman.events import Cancelled

    try:
        code, data, lines = work(options)
    except (Cancelled, KeyboardInterrupt):
        sys.stderr.write("Stopped. What was downloaded is kept.\n")
        return STOPPED
    except (OSError, ValueError, MemoryError) as error:
        # A missing or damaged file, a wrong name, no network, no memory: the message says what to do.
        from synchuman.weights.hub import HubError

        failed = isinstance(error, (HubError, MemoryError))
        code, data, lines = (FAILED if failed else BAD_INPUT), {"error": str(error)}, []
        sys.stderr.write("" if options.json else f"{error}\n")
    show(options, data, lines)
    return code


def show(options: argparse.Namespace, data: dict[str, Any], lines: list[str]) -> None:
    """Print an answer, as JSON when --json was given."""
    text = json.dumps(data, indent=2) + "\n" if options.json else "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text)
