"""Shows how a run goes, as bars in a terminal, and tells its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from synchuman.events import Done, Event


def follow(events: Iterable[Event], console: Console, title: str = "") -> Done:
    """Show a bar per stage until the run is over, then its warnings; return its last event."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    from synchuman.events import Done, Progress

    done: Done | None = None
    stage, left = TextColumn("{task.description:>9}"), TextColumn("{task.fields[left]}")
    if title:
        console.print(title, style="bold", highlight=False)
    with Bars(stage, BarColumn(), MofNCompleteColumn(), left, console=console) as bars:
        tasks: dict[str, Any] = {}
        for event in events:
            if isinstance(event, Progress):
                if event.stage not in tasks:
                    tasks[event.stage] = bars.add_task(event.stage, total=event.total, left="")
                eta = "" if event.eta is None else f"{event.eta:.0f} s left"
                bars.update(tasks[event.stage], completed=event.step, total=event.total, left=eta)
            elif isinstance(event, Done):
                for task in bars.tasks:
                    bars.update(task.id, completed=task.total, left="")
                done = event
    assert done is not None
    for sentence in done.warnings:
        console.print(sentence, style="yellow", highlight=False)
    return done


def told(done: Done) -> dict[str, Any]:
    """Return a run's end as JSON tells it; names as the service has them."""
    return {
        "state": "done",
        "glb": str(done.glb),
        "folder": str(done.folder),
        "mode": "full" if done.stage2 else "stage1_only",
        "seconds": done.seconds,
        "faces": done.faces,
        "peak_memory": done.peak_memory,
        "warnings": list(done.warnings),
    }
