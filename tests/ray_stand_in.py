"""A pipeline for tests of the cluster: seconds of steps instead of networks, and a log of who ran what."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STEPS = 5
STEP_SECONDS = 0.15


class StandIn:
    """Makes a "model" that names the photo it was made from."""

    def __init__(self, log: Path, placement: str, stage2_device: str | None) -> None:
        self.log = log
        self.place = {"placement": placement, "stage2_device": stage2_device}
        self.device = SimpleNamespace(type="cpu")
        self.devices = (self.device,)

    def run(
        self, photo: bytes, settings: Any, folder: Path, stop: Any, person: int | None, stage1_only: bool
    ) -> Iterator[Any]:
        from synchuman.events import Cancelled, Done, Progress

        digest = hashlib.sha256(photo).hexdigest()
        self.note("begun", digest)
        for step in range(STEPS):
            if stop.is_set():
                raise Cancelled("The run was stopped.")
            yield Progress("stage 1", step, STEPS, None, ("stage 1",))
            time.sleep(STEP_SECONDS)
        model = folder / "SecondStage/output.glb"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(digest)
        (folder / "run.json").write_text(json.dumps(self.place))
        self.note("finished", digest)
        yield Done(folder, model, {"stage 1": STEPS * STEP_SECONDS}, 10, 1, stage2=True)

    def note(self, what: str, digest: str) -> None:
        with self.log.open("a") as log:
            log.write(json.dumps({"what": what, "photo": digest, "pid": os.getpid()}) + "\n")


def load(
    variant: str, device: str, dtype: str, placement: str, stage2_device: str | None
) -> tuple[StandIn, dict[str, Any]]:
    """Take the place of `engine_load.load_pipeline`; the "variant" is the path of the log."""
    return StandIn(Path(variant), placement, stage2_device), {
        "device": "cpu",
        "dtype": "float32",
        "gpu": None,
    }


def notes(log: Path) -> list[dict[str, Any]]:
    """Return what was noted."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
