"""Runs a function that reports through a callback as a stream of events that can be stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from synchuman.events import Cancelled, Progress

Result = TypeVar("Result")
Checkpoint = Callable[[str, int, int], None]


def stream_progress(
    work: Callable[[Checkpoint], Result],
    stop: threading.Event | None,
    report: Callable[[str, int, int], Progress],
) -> Generator[Progress, None, Result]:
    """Run `work` in a thread of its own and yield its checkpoints while it goes.

    Args:
        work: Called with a checkpoint (stage, step, total), which raises Cancelled to stop it.
        stop: Set from outside to stop the work at its next checkpoint.
        report: Makes the event of a checkpoint.

    Returns:
        What `work` returned (as the value of `yield from`). Whatever it raised is raised here.
    """
    reports: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    abandoned = threading.Event()
    results: list[Result] = []
    errors: list[BaseException] = []

    def checkpoint(stage: str, step: int, total: int) -> None:
        if abandoned.is_set() or (stop is not None and stop.is_set()):
            raise Cancelled("The run was stopped.")
        reports.put(report(stage, step, total))

    def body() -> None:
        try:
            results.append(work(checkpoint))
        except BaseException as error:
            errors.append(error)
        finally:
            reports.put(None)

    thread = threading.Thread(target=body, name="surface", daemon=True)
    thread.start()
    try:
        while (event := reports.get()) is not None:
            yield event
    finally:
        # A reader that closes the stream must not leave the work running behind its back.
        abandoned.set()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
