"""The steps of a run, each a stream of events that ends with what the next step needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import fields
from typing import TYPE_CHECKING

from synchuman.events import Cancelled, CoarseMeshReady, CutoutReady, Event, ViewsReady
from synchuman.runfolder import RunFolder, StageOneFiles
from synchuman.runlog import RunLog
from synchuman.settings import Settings
from synchuman.worker import Checkpoint, stream_progress

if TYPE_CHECKING:
    import numpy as np
    import torch

    from synchuman.photo import PreparedPhoto
    from synchuman.stage1.stage1 import Stage1
    from synchuman.stage2.gaussian_decoder import Gaussians
    from synchuman.stage2.stage2 import Stage2, Stage2Result
    from synchuman.surface.formats.gaussians import GaussianCloud
    from synchuman.surface.mesh import DenseMesh

# The coarse mesh is a first look while Stage 2 goes on.
PREVIEW_FACES, PREVIEW_TEXTURE = 20_000, 1024
PREVIEW_PARTS = {"surface": 0, "atlas": 1, "texture": 2}
PART_STEPS = 10

Stop = threading.Event | None


def cut_out(
    photo: bytes, settings: Settings, person: int | None, log: RunLog
) -> Generator[Event, None, PreparedPhoto]:
    """Cut the person out of the photo."""
    from synchuman.photo import prepare

    with log.timed("cut-out"):
        yield log.progress("cut-out", 0, 1)
        prepared = prepare(photo, settings.matting, person)
    yield CutoutReady(prepared.cutout)
    return prepared


def sample_views(
    stage1: Stage1, rgba: np.ndarray, settings: Settings, log: RunLog, stop: Stop
) -> Generator[Event, None, StageOneFiles]:
    """Sample the views and the structure, and write them."""
    from synchuman.stage1.stage1 import Stage1Result

    total, preview_every = settings.stage1_steps, stage1.config.preview_interval
    with log.timed("stage 1"):
        check(stop)
        yield log.progress("stage 1", 0, total)
        for step in stage1.sample(
            rgba, total, settings.guidance, settings.seed, preview_every, settings.solver
        ):
            check(stop)
            if isinstance(step, Stage1Result):
                result = step
                continue
            yield log.progress("stage 1", step.step, step.total)
            if step.preview is not None:
                yield ViewsReady(*step.preview, final=False)
        logits = result.structure_logits
        if logits is None:
            logits = carve_views(rgba, result.colors, result.normals)
        files = StageOneFiles(rgba, result.colors, result.normals, logits)
        log.folder.write_stage_one(files)
    yield ViewsReady(files.colors, files.normals, final=True)
    return files


def preview(
    files: StageOneFiles, settings: Settings, log: RunLog, stop: Stop, device: torch.device
) -> Generator[Event, None, DenseMesh]:
    """Make a quick coarse mesh to look at while Stage 2 goes on, on a device; returns its surface."""
    from synchuman.surface.build import coarse_mesh, image_sources, texture_mesh
    from synchuman.surface.formats.glb import to_glb

    faces, size = min(settings.faces, PREVIEW_FACES), min(settings.texture_size, PREVIEW_TEXTURE)

    def work(checkpoint: Checkpoint) -> tuple[DenseMesh, bytes]:
        def part(stage: str, step: int, total: int) -> None:
            done = PREVIEW_PARTS[stage] * PART_STEPS + step * PART_STEPS // total
            checkpoint("preview", done, PART_STEPS * len(PREVIEW_PARTS))

        sources = image_sources(files.colors, files.normals, files.rgba)
        dense = coarse_mesh(files.logits, sources, faces, part)
        mesh = texture_mesh(dense, sources, faces, size, part, device)
        return dense, to_glb(mesh, metadata={**log.about_model(), "stage2": False})

    with log.timed("preview"):
        dense, glb = yield from stream_progress(work, stop, log.progress)
    yield CoarseMeshReady(log.folder.write_coarse(glb))
    return dense


def refine(
    stage2: Stage2, files: StageOneFiles, coarse: DenseMesh, settings: Settings, log: RunLog, stop: Stop
) -> Generator[Event, None, Stage2Result]:
    """Sample and decode the fine surface's features on the shell of the coarse one, or of the structure."""
    from synchuman.stage2.stage2 import Stage2Result
    from synchuman.surface.build import latent_voxels

    total = settings.stage2_steps
    with log.timed("stage 2"):
        check(stop)
        yield log.progress("stage 2", 0, total)
        occupied = latent_voxels(files.logits, coarse, stage2.config.latents_at)
        guidance, seed, solver = settings.stage2_guidance, settings.seed, settings.solver
        for step in stage2.sample(
            files.colors, files.normals, files.rgba, occupied, total, guidance, seed, solver
        ):
            check(stop)
            if isinstance(step, Stage2Result):
                result = step
                continue
            yield log.progress("stage 2", step.step, step.total)
        log.folder.write_gaussians(None if result.gaussians is None else _kept(result.gaussians))
    return result


def texture(
    extract: Callable[[Checkpoint], DenseMesh],
    views: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings: Settings,
    log: RunLog,
    stop: Stop,
    device: torch.device,
    keep: bool = True,
) -> Generator[Event, None, bytes]:
    """Extract, decimate and texture a surface, and write it as the model.

    Args:
        extract: Gives the surface; called with a checkpoint.
        views: (rgba, colors, normals) as in `StageOneFiles`.
        settings: For faces and texture size.
        log: Gets the number of faces.
        stop: Set it to stop.
        device: Where the texels are worked on.
        keep: Write the surface, for retexturing; False when it was read from there.

    Returns:
        The GLB.
    """
    from synchuman.surface.build import image_sources, texture_mesh
    from synchuman.surface.formats.glb import to_glb

    rgba, colors, normals = views

    def work(checkpoint: Checkpoint) -> bytes:
        dense = extract(checkpoint)
        sources = image_sources(colors, normals, rgba)
        mesh = texture_mesh(dense, sources, settings.faces, settings.texture_size, checkpoint, device)
        log.faces = len(mesh.faces)
        glb = to_glb(mesh, metadata=log.about_model())
        if keep:
            log.folder.write_mesh(dense)
        log.folder.write_model(glb, mesh.texture)
        return glb

    check(stop)
    with log.timed("surface"):
        return (yield from stream_progress(work, stop, log.progress))


def carve(folder: RunFolder) -> StageOneFiles:
    """Read the views of a folder and take the structure from their masks."""
    rgba, colors, normals = folder.read_views()
    return StageOneFiles(rgba, colors, normals, carve_views(rgba, colors, normals))


def carve_views(rgba: np.ndarray, colors: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Take the structure from the views, for a folder that lost it or weights without structure decoder."""
    from synchuman.surface.build import image_sources
    from synchuman.surface.carve import carve_structure

    return carve_structure(image_sources(colors, normals, rgba), normals)


def _kept(gaussians: Gaussians) -> GaussianCloud:
    from synchuman.surface.formats.gaussians import GaussianCloud

    names = [field.name for field in fields(GaussianCloud)]
    return GaussianCloud(**{name: getattr(gaussians, name).float().cpu().numpy() for name in names})


def check(stop: Stop) -> None:
    """Raise Cancelled when the run was stopped."""
    if stop is not None and stop.is_set():
        raise Cancelled("The run was stopped.")
