"""The whole way from a photo to a textured GLB, as one stream of events; the only place that knows it all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.events import Cancelled, CoarseMeshReady, CutoutReady, Event, Progress, ViewsReady
from synchuman.runfolder import RunFolder, StageOneFiles
from synchuman.runlog import RunLog
from synchuman.settings import Settings
from synchuman.worker import stream_progress

if TYPE_CHECKING:
    import numpy as np
    import torch

    from synchuman.photo import PreparedPhoto
    from synchuman.stage1.stage1 import Stage1

LOGGER = logging.getLogger(__name__)

# Seconds, until the first run has measured them.
TYPICAL = {"cut-out": 1.5, "surface": 3.0, "atlas": 2.0, "texture": 5.0}


class SyncHuman:
    """One variant of the method, loaded once and run any number of times, one run at a time."""

    def __init__(self, stage1: Stage1, variant: str, device: torch.device, dtype: torch.dtype) -> None:
        """Wrap loaded networks; use `SyncHuman.load`."""
        self.stage1 = stage1
        self.variant = variant
        self.device = device
        self.dtype = dtype
        self._typical = dict(TYPICAL)

    @classmethod
    def load(cls, variant: str = "mini", device: str = "auto", dtype: str = "auto") -> SyncHuman:
        """Load a variant's networks.

        Args:
            variant: Name of a variant ("mini") or path of a folder laid out like one.
            device: "auto" (CUDA when there is one), or a torch device.
            dtype: "auto", "float32", "bfloat16" or "float16".

        Raises:
            FileNotFoundError: There is no such variant.
            ValueError: The device or dtype is unknown or not there.
        """
        from synchuman.placement import choose_device, choose_dtype, variant_folder
        from synchuman.stage1.stage1 import Stage1

        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        folder = variant_folder(variant)
        LOGGER.info("loading %s on %s as %s", folder, chosen_device, chosen_dtype)
        return cls(Stage1.load(folder, chosen_device, chosen_dtype), variant, chosen_device, chosen_dtype)

    def run(
        self,
        photo: bytes,
        settings: Settings,
        folder: Path,
        stop: threading.Event | None = None,
        person: int | None = None,
    ) -> Iterator[Event]:
        """Turn a photo into a textured GLB.

        Args:
            photo: The image file's bytes.
            settings: What the user chose.
            folder: Where the run's files go; made when missing.
            stop: Set it to stop: checked at every sampling step and inside texturing.
            person: Which of several people, an index into the report's; None when there is one.

        Yields:
            Progress throughout, CutoutReady, ViewsReady (previews, then final), CoarseMeshReady, Done.

        Raises:
            PhotoError: The photo cannot be used.
            Cancelled: `stop` was set; the folder says so.
        """
        log = self._open(folder, settings)
        with log.recorded():
            prepared = yield from self._cut_out(photo, settings, person, log)
            files = yield from self._sample(prepared.cutout, settings, log, stop)
            yield from self._surface(files, settings, log, stop)
            yield log.done(tuple(prepared.report.warnings))

    def resume(
        self, settings: Settings, folder: Path, stop: threading.Event | None = None
    ) -> Iterator[Event]:
        """Go on from a folder in which Stage 1 is done, also one that the published code wrote.

        Raises:
            RunFolderError: Stage 1's files are missing or unreadable.
            Cancelled: `stop` was set.
        """
        files = RunFolder(folder).read_stage_one()
        log = self._open(folder, settings)
        with log.recorded():
            yield ViewsReady(files.colors, files.normals, final=True)
            yield from self._surface(files, settings, log, stop)
            yield log.done(())

    def _open(self, folder: Path, settings: Settings) -> RunLog:
        about = {
            "variant": self.variant,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return RunLog(RunFolder(folder), settings, about, self._typical)

    def _cut_out(
        self, photo: bytes, settings: Settings, person: int | None, log: RunLog
    ) -> Generator[Event, None, PreparedPhoto]:
        from synchuman.photo import prepare

        with log.timed("cut-out"):
            yield Progress("cut-out", 0, 1, log.eta())
            prepared = prepare(photo, settings.matting, person)
        yield CutoutReady(prepared.cutout)
        return prepared

    def _sample(
        self, rgba: np.ndarray, settings: Settings, log: RunLog, stop: threading.Event | None
    ) -> Generator[Event, None, StageOneFiles]:
        from synchuman.stage1.stage1 import Stage1Result

        total, preview_every = settings.stage1_steps, self.stage1.config.preview_interval
        with log.timed("stage 1"):
            _check(stop)
            yield Progress("stage 1", 0, total, log.eta())
            steps = self.stage1.sample(rgba, total, settings.guidance, settings.seed, preview_every)
            for step in steps:
                _check(stop)
                if isinstance(step, Stage1Result):
                    result = step
                    continue
                yield Progress("stage 1", step.step, step.total, log.eta("stage 1", step.step, step.total))
                if step.preview is not None:
                    yield ViewsReady(*step.preview, final=False)
            files = StageOneFiles(rgba, result.colors, result.normals, result.structure_logits)
            log.folder.write_stage_one(files)
        yield ViewsReady(files.colors, files.normals, final=True)
        return files

    def _surface(
        self, files: StageOneFiles, settings: Settings, log: RunLog, stop: threading.Event | None
    ) -> Iterator[Event]:
        from synchuman.surface.build import build_coarse
        from synchuman.surface.export import to_glb

        _check(stop)
        with log.timed("surface"):
            mesh = yield from stream_progress(
                lambda checkpoint: build_coarse(
                    files.logits, files.colors, files.normals, files.rgba,
                    settings.faces, settings.texture_size, checkpoint,
                ),
                stop,
                log.eta,
            )  # fmt: skip
            path = log.folder.write_model(to_glb(mesh, metadata=log.about_model()))
            log.faces = len(mesh.faces)
        yield CoarseMeshReady(path)


def _check(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Cancelled("The run was stopped.")
