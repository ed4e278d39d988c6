"""Keeps the record of a run while it goes: seconds and memory per stage, status, estimate of what is left."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from synchuman import __version__
from synchuman.events import Cancelled, Done, Progress
from synchuman.runfolder import RunFolder
from synchuman.settings import Settings

TEXTURING = ("surface", "atlas", "texture")
# Stages of sampling steps, and the setting that says how many.
SAMPLED = {"stage 1": "stage1_steps", "stage 2": "stage2_steps"}
# Seconds of a stage, or of one of its steps, until the first run has measured them. What a step of Stage 1
# takes is not guessed: it differs a hundredfold between machines.
TYPICAL = {"cut-out": 1.5, "preview": 6.0, "stage 2": 1.0, "surface": 3.0, "atlas": 2.0, "texture": 5.0}
PACKAGES = ("torch", "numpy", "diffusers", "transformers")
# What a model tells about its making.
TOLD = ("created", "variant", "device", "dtype", "stage2", "seed", "settings", "seconds", "versions")


class RunLog:
    """The record behind run.json; written when the run starts, and when it ends in whatever way."""

    def __init__(
        self,
        folder: RunFolder,
        settings: Settings,
        about: dict[str, Any],
        stages: tuple[str, ...],
        typical: dict[str, float],
        before: dict[str, Any] | None = None,
    ) -> None:
        """Start a record.

        Args:
            folder: Where run.json goes.
            settings: Of this run.
            about: Variant, device and dtype.
            stages: What the run does, in order.
            typical: Seconds per stage, of sampled ones per step, in earlier runs; this run updates it.
            before: The record of an earlier run in this folder that this one goes on from.
        """
        before = before or {}
        self.folder = folder
        self.faces = 0
        self.stages = stages
        self.stage2 = before.get("stage2", "stage 2" in stages)
        self._settings = settings
        self._about = about
        self._typical = typical
        self._created = before.get("created") or datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._before = before
        self._seconds: dict[str, float] = {}
        self._memory: dict[str, int] = {}
        self._warnings: tuple[str, ...] = tuple(before.get("warnings", ()))
        self._stage: str | None = None
        self._began = 0.0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write run.json as running, then as done, cancelled or failed, whichever way the block ends."""
        self.write("running")
        try:
            yield
        except (Cancelled, GeneratorExit):
            self.write("cancelled")
            raise
        except BaseException as error:
            self.write("failed", error=f"{type(error).__name__}: {error}")
            raise
        self.write("done")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        self._enter(stage)
        try:
            yield
        finally:
            self._leave()

    def progress(self, stage: str, step: int, total: int) -> Progress:
        """Return the event of a step; a stage that was not entered begins, and ends the one before."""
        if stage != self._stage:
            self._leave()
            self._enter(stage)
        return Progress(stage, step, total, self._eta(stage, step, total), self.stages)

    def about_model(self) -> dict[str, Any]:
        """Return what a GLB tells about its making, as far as the run is."""
        return model_extras(self._record("running"))

    def done(self, warnings: tuple[str, ...] = ()) -> Done:
        """Return the event that ends the run, with more warnings for its record."""
        self._warnings += warnings
        return Done(
            folder=self.folder.path,
            glb=self.folder.model,
            seconds=dict(self._seconds),
            faces=self.faces,
            peak_memory=peak_memory(),
            warnings=self._warnings,
            stage2=self.stage2,
        )

    def write(self, status: str, error: str | None = None) -> None:
        """Write run.json."""
        record = self._record(status)
        if error is not None:
            record["error"] = error
        self.folder.write_record(record)

    def _record(self, status: str) -> dict[str, Any]:
        seconds = dict(self._seconds)
        if self._stage is not None:
            seconds[self._stage] = round(time.perf_counter() - self._began, 3)
        return {
            "status": status,
            "created": self._created,
            **self._about,
            "stage2": self.stage2,
            "seed": self._settings.seed,
            "settings": self._settings.model_dump(),
            "seconds": {**self._before.get("seconds", {}), **seconds},
            "peak_memory": {**self._before.get("peak_memory", {}), **self._memory},
            "faces": self.faces,
            "warnings": list(self._warnings),
            "versions": {
                "synchuman": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in PACKAGES},
            },
        }

    def _eta(self, stage: str, step: int, total: int) -> float | None:
        """Estimate the seconds to the end of the run; None while nothing is known of a stage ahead."""
        elapsed = time.perf_counter() - self._began
        if stage in SAMPLED and step:
            self._typical[stage] = elapsed / step
        ahead = self.stages[self.stages.index(stage) :] if stage in self.stages else (stage,)
        if any(name not in self._typical for name in ahead):
            return None
        left = max(self._expected(stage) - elapsed, 0.0)
        if step and total:
            left = elapsed / step * (total - step)
        return left + sum(self._expected(name) for name in ahead[1:])

    def _expected(self, stage: str) -> float:
        steps = getattr(self._settings, SAMPLED[stage]) if stage in SAMPLED else 1
        return self._typical[stage] * steps

    def _enter(self, stage: str) -> None:
        self._stage, self._began = stage, time.perf_counter()

    def _leave(self) -> None:
        if self._stage is None:
            return
        self._seconds[self._stage] = round(time.perf_counter() - self._began, 3)
        self._memory[self._stage] = peak_memory()
        if self._stage not in SAMPLED:
            self._typical[self._stage] = self._seconds[self._stage]
        self._stage = None


def model_extras(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a model's file tells about its making, from a run's record, which may be empty."""
    return {
        "app": f"SyncHuman Studio {__version__}",
        **{name: record[name] for name in TOLD if name in record},
        "note": "Generated by a model from one photo; unseen parts are invented.",
    }


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes (0 on Windows, which does not tell it)."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
