"""The whole way from a photo to a textured GLB, as one stream of events; the only place that knows it all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman import steps
from synchuman.events import CoarseMeshReady, Event, Progress, ViewsReady
from synchuman.runfolder import RunFolder, RunFolderError, StageOneFiles
from synchuman.runlog import TEXTURING, TYPICAL, RunLog
from synchuman.settings import Settings

if TYPE_CHECKING:
    import torch

    from synchuman.stage1.stage1 import Stage1
    from synchuman.stage2.stage2 import Stage2
    from synchuman.surface.mesh import DenseMesh
    from synchuman.worker import Checkpoint

NO_STAGE2 = (
    "These weights have no Stage 2: the model is the coarse mesh made from the views and the structure."
)
STAGE1_ONLY = "Stage 2 was left out as asked: the model is the coarse mesh."
NO_DECODER = "These weights have no structure decoder: the structure is carved from the generated views."
CARVED = "No structure was kept: it was carved from the masks and normals of the views."


class SyncHuman:
    """One variant of the method, loaded once and run any number of times, one run at a time."""

    def __init__(
        self,
        stage1: Stage1,
        variant: str,
        device: torch.device,
        dtype: torch.dtype,
        stage2: Stage2 | None = None,
    ) -> None:
        """Wrap loaded networks; use `SyncHuman.load`."""
        self.stage1 = stage1
        self.stage2 = stage2
        self.variant = variant
        self.device = device
        self.dtype = dtype
        self._typical = dict(TYPICAL)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that a run computes on."""
        return (self.device,) if self.stage2 is None else (self.device, self.stage2.device)

    @classmethod
    def load(
        cls,
        variant: str = "mini",
        device: str = "auto",
        dtype: str = "auto",
        placement: str = "auto",
        stage2_device: str | None = None,
        report: Callable[[Progress], None] = lambda event: None,
    ) -> SyncHuman:
        """Load a variant's networks; without Stage 2 if it has none.

        Args:
            variant: "mini", "official" (downloaded when it is not there), or the path of a folder laid out
                like one of them.
            device: "auto" (CUDA when there is one), or a torch device.
            dtype: "auto", "float32", "bfloat16" or "float16".
            placement: "resident" (networks stay on the device), "staged" (each is there only while its step
                runs) or "auto" (resident where the free memory suffices).
            stage2_device: Device of Stage 2; None for that of Stage 1.
            report: Told how a download and the loading go: stages "download" (steps are MiB), "weights".

        Raises:
            FileNotFoundError: There is no such variant, or one of its files is missing.
            ValueError: A device, dtype or placement is unknown or not there; a file is damaged.
            HubError: The download failed; the message says what to do.
            DeviceMemoryError: The networks do not fit on the device.
        """
        from synchuman.weights.variants import find_variant

        # A wrong name is told before the libraries of the networks are imported, which takes many seconds.
        find_variant(variant)
        from synchuman.loading import load_variant

        got = load_variant(variant, device, dtype, placement, stage2_device, report)
        return cls(got.stage1, variant, got.device, got.dtype, got.stage2)

    def run(
        self,
        photo: bytes,
        settings: Settings,
        folder: Path,
        stop: threading.Event | None = None,
        person: int | None = None,
        stage1_only: bool = False,
    ) -> Generator[Event, None, None]:
        """Turn a photo into a textured GLB.

        Args:
            photo: The image file's bytes.
            settings: What the user chose.
            folder: Where the run's files go; made when missing.
            stop: Set it to stop: checked at every sampling step and inside texturing.
            person: Which of several people, an index into the report's; None when there is one.
            stage1_only: Leave Stage 2 out; the model is the coarse mesh.

        Yields:
            Progress throughout, CutoutReady, ViewsReady (previews, then final), CoarseMeshReady, Done.

        Raises:
            PhotoError: The photo cannot be used.
            Cancelled: `stop` was set; the folder says so.
        """
        log = self._open(folder, settings, ("cut-out", "stage 1"), stage1_only)
        with log.recorded():
            prepared = yield from steps.cut_out(photo, settings, person, log)
            files = yield from steps.sample_views(self.stage1, prepared.cutout, settings, log, stop)
            yield from self._build(files, settings, log, stop)
            yield log.done((*prepared.report.warnings, *self._notes(stage1_only)))

    def resume(
        self,
        settings: Settings,
        folder: Path,
        stop: threading.Event | None = None,
        stage1_only: bool = False,
        carve: bool = False,
    ) -> Generator[Event, None, None]:
        """Go on from a folder in which Stage 1 is done, also one that the published code wrote.

        Args:
            settings: What the user chose; those of Stage 1 have no effect.
            folder: The run's folder.
            stop: See `run`.
            stage1_only: See `run`.
            carve: Take the structure from the masks of the views, for a folder without latent.npz.

        Raises:
            RunFolderError: Stage 1's files are missing or unreadable.
            Cancelled: `stop` was set.
        """
        files = steps.carve(RunFolder(folder)) if carve else RunFolder(folder).read_stage_one()
        log = self._open(folder, settings, (), stage1_only)
        with log.recorded():
            yield ViewsReady(files.colors, files.normals, final=True)
            yield from self._build(files, settings, log, stop)
            yield log.done((*((CARVED,) if carve else ()), *self._notes(stage1_only)))

    @staticmethod
    def retexture(
        settings: Settings, folder: Path, stop: threading.Event | None = None, device: str = "auto"
    ) -> Generator[Event, None, None]:
        """Decimate and texture the mesh of a finished run anew, without sampling; needs no weights.

        Args:
            settings: Those of faces and texture count; the others stay what the run had.
            folder: The run's folder.
            stop: Set it to stop; the model stays as it was.
            device: Where the texels are worked on, see `load`.

        Raises:
            RunFolderError: No finished run is there.
            ValueError: The device is unknown or not there.
            Cancelled: `stop` was set.
        """
        from synchuman.placement import choose_device

        on = choose_device(device)
        place = RunFolder(folder)
        record = place.read_record()
        views, mesh = place.read_views(), place.read_mesh()
        try:
            kept = Settings(**record["settings"])
            about = {name: record[name] for name in ("variant", "device", "dtype")}
        except (KeyError, ValueError):
            raise RunFolderError(
                f"run.json in {folder} is from another version; make the model again."
            ) from None
        change = {"faces": settings.faces, "texture_size": settings.texture_size}
        settings = kept.model_copy(update=change)
        log = RunLog(place, settings, about, TEXTURING, dict(TYPICAL), before=record)

        def as_it_was(checkpoint: Checkpoint) -> DenseMesh:
            checkpoint("surface", 1, 1)
            return mesh

        yield from steps.texture(as_it_was, views, settings, log, stop, on, keep=False)
        yield log.done()
        log.write("done")

    def _open(self, folder: Path, settings: Settings, first: tuple[str, ...], stage1_only: bool) -> RunLog:
        about = {
            "variant": self.variant,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "placement": "staged" if self.stage1.residency.staged else "resident",
        }
        second = () if self.stage2 is None or stage1_only else ("preview", "stage 2")
        return RunLog(RunFolder(folder), settings, about, (*first, *second, *TEXTURING), self._typical)

    def _notes(self, stage1_only: bool) -> tuple[str, ...]:
        lacking = () if self.stage1.networks.structure_decoder is not None else (NO_DECODER,)
        if stage1_only:
            return (STAGE1_ONLY, *lacking)
        return (NO_STAGE2, *lacking) if self.stage2 is None else lacking

    def _build(
        self, files: StageOneFiles, settings: Settings, log: RunLog, stop: threading.Event | None
    ) -> Iterator[Event]:
        """Make the model from Stage 1's files: through Stage 2, with a preview before, or the coarse mesh."""
        from synchuman.residency import call_guarded
        from synchuman.surface.build import coarse_mesh, image_sources
        from synchuman.surface.fine import fine_surface
        from synchuman.surface.relief import Guides, with_relief

        views = files.rgba, files.colors, files.normals
        if self.stage2 is not None and log.stage2:
            coarse = yield from steps.preview(files, settings, log, stop, self.stage2.device)
            residency = self.stage2.residency
            fine = yield from steps.refine(self.stage2, files, coarse, settings, log, stop)
            decoded = fine.coords, fine.feats, fine.resolution
            guides = Guides(files.normals, coarse) if self.stage2.config.follow_normals else None

            def extract(checkpoint: Checkpoint) -> DenseMesh:
                return call_guarded(lambda: fine_surface(*decoded, checkpoint), residency)

            yield from steps.texture(
                lambda checkpoint: with_relief(extract, guides, checkpoint),
                views, settings, log, stop, self.stage2.device,
            )  # fmt: skip
            return
        log.folder.write_gaussians(None)
        sources = image_sources(files.colors, files.normals, files.rgba)
        glb = yield from steps.texture(
            lambda checkpoint: coarse_mesh(files.logits, sources, settings.faces, checkpoint),
            views, settings, log, stop, self.device,
        )  # fmt: skip
        yield CoarseMeshReady(log.folder.write_coarse(glb))
