"""A batch on a Ray cluster: one photo per actor at a time; what a lost machine had begun goes to another."""

from __future__ import annotations

import argparse
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from synchuman.commands.outcome import Problem

if TYPE_CHECKING:
    from rich.console import Console

    from synchuman.commands.report import Item, Report
    from synchuman.serving.cluster.engine import RayEngine
    from synchuman.serving.engine import Outcome
    from synchuman.serving.jobs import Job
    from synchuman.settings import Settings

MAX_LOST = 3  # machines that one photo may lose
LONGEST_RUN = 6 * 3600.0  # seconds; nobody waits for a batch's single photo, but it must not hang for ever
IDLE = 0.2


class Spread:
    """The photos of a batch and the actors that take them."""

    def __init__(
        self, items: list[Item], settings: Settings, report: Report, stage1_only: bool, console: Console
    ) -> None:
        """Put all photos into the queue; nothing is read before an actor is free for it."""
        self.settings = settings
        self.report = report
        self.stage1_only = stage1_only
        self.console = console
        self._waiting: queue.SimpleQueue[tuple[Item, int]] = queue.SimpleQueue()
        for item in items:
            self._waiting.put((item, 0))
        self._left = len(items)
        self._guard = threading.Lock()  # of the report and of the count
        self.broken: list[str] = []

    def work(self, engine: RayEngine, stop: threading.Event) -> None:
        """Run photos on one actor until none is left; meant for a thread of its own."""
        from synchuman.serving.engine import EngineBroken, EngineLost

        try:
            while self._left and not stop.is_set():
                engine.start(stop)
                try:
                    item, lost = self._waiting.get(timeout=IDLE)
                except queue.Empty:  # others run the last ones, and may lose them
                    continue
                try:
                    self._run(engine, item, stop)
                except EngineLost as error:
                    if lost + 1 < MAX_LOST and not stop.is_set():
                        self.console.print(f"{item.name}: {error} It runs again.", style="yellow")
                        self._waiting.put((item, lost + 1))
                        continue
                    self._end(item, _failed("worker_died", str(error)))
        except EngineBroken as error:
            if not stop.is_set():
                self.broken.append(str(error))
        finally:
            engine.close()

    def _run(self, engine: RayEngine, item: Item, stop: threading.Event) -> None:
        from synchuman.serving.jobs import PHOTO, Job, JobRequest, Kind

        kind = Kind.RESUME if self.report.has_views(item) else Kind.GENERATE
        request = JobRequest(kind=kind, settings=self.settings, stage1_only=self.stage1_only)
        photo = item.folder / PHOTO
        if kind is Kind.GENERATE:
            with self._guard:
                self.report.start(item)
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.write_bytes(item.photo.read_bytes())
        job = Job("batch", request, time.time())
        try:
            outcome = engine.run(job, item.folder, stop, lambda name, data: None)
        finally:
            photo.unlink(missing_ok=True)
        self._end(item, _told(job, item, outcome))

    def _end(self, item: Item, told: dict[str, Any]) -> None:
        with self._guard:
            self.report.end(item, told)
            self._left -= 1
        words = told["error"]["message"] if "error" in told else told["state"]
        self.console.print(f"{item.name}: {words}", highlight=False)


def run_spread(
    items: list[Item],
    settings: Settings,
    report: Report,
    options: argparse.Namespace,
    console: Console,
    stop: threading.Event,
) -> None:
    """Run photos on the cluster of --ray, as many at once as it has actors.

    Raises:
        ClusterError: Ray is missing, or its cluster cannot be used.
    """
    from synchuman.serving.cluster import ClusterError
    from synchuman.serving.cluster.actor import Model
    from synchuman.serving.cluster.engine import cluster_engines

    if not items:
        return
    model = Model(options.variant, options.device, options.dtype, options.placement, options.stage2_device)
    engines = list(cluster_engines(options.ray, options.ray_actors, model, LONGEST_RUN))
    spread = Spread(items, settings, report, options.stage1_only, console)
    threads = [threading.Thread(target=spread.work, args=(engine, stop)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(spread.broken) == len(engines):
        raise ClusterError(spread.broken[0])


def _told(job: Job, item: Item, outcome: Outcome) -> dict[str, Any]:
    """Return the end of a run as `follow.told` does."""
    from synchuman.serving.jobs import State

    if outcome.state is State.DONE:
        folder = {"glb": str(item.folder / outcome.result["glb"]), "folder": str(item.folder)}
        return {"state": "done", **outcome.result, **folder}
    if outcome.failure is not None:
        return _failed(outcome.failure.code, outcome.failure.message)
    return {"state": "cancelled", "error": Problem("stopped", "Stopped.").told()}


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"state": "failed", "error": Problem(code, message).told()}
