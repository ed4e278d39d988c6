"""The whole way from a photo to a GLB, its run folder, and runs that are stopped."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import trimesh
from conftest import encode

from synchuman.events import (
    Cancelled,
    CoarseMeshReady,
    CutoutReady,
    Done,
    Event,
    PhotoError,
    Progress,
    ViewsReady,
)
from synchuman.pipeline import NO_DECODER, SyncHuman
from synchuman.placement import choose_device, choose_dtype
from synchuman.runfolder import RunFolder, RunFolderError, StageOneFiles
from synchuman.settings import Settings
from synchuman.steps import carve_views
from synchuman.surface.mesh import DenseMesh
from synchuman.weights.variants import find_variant
from synchuman.worker import stream_progress

QUICK = Settings(
    stage1_steps=2, guidance=1.0, stage2_steps=2, stage2_guidance=1.0, faces=1500, texture_size=256, seed=7
)
STAGES = ["cut-out", "stage 1", "preview", "stage 2", "surface", "atlas", "texture"]
COARSE_STAGES = ["cut-out", "stage 1", "surface", "atlas", "texture"]


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


def said_of_weights(pipeline: SyncHuman) -> tuple[str, ...]:
    """What every run says of the shipped Stage 1: nothing, once it has its structure decoder."""
    return (NO_DECODER,) if pipeline.stage1.networks.structure_decoder is None else ()


def closed(model: trimesh.Trimesh) -> bool:
    """Whether a model is watertight where the charts of its texture meet, too."""
    return trimesh.Trimesh(model.vertices, model.faces).is_watertight


@pytest.fixture(scope="module")
def finished(
    pipeline: SyncHuman, person_png: bytes, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, list(pipeline.run(person_png, QUICK, folder))


def test_photo_to_glb(finished: tuple[Path, list[Event]], pipeline: SyncHuman) -> None:
    folder, events = finished
    done = events[-1]
    assert isinstance(done, Done) and done.glb == folder / "SecondStage" / "output.glb"
    model = trimesh.load(done.glb, force="mesh")
    assert len(model.faces) == done.faces > 500
    assert model.extents[1] == pytest.approx(1.7, abs=0.02)
    assert closed(model)
    assert list(done.seconds) == STAGES and done.stage2
    assert done.warnings == said_of_weights(pipeline)
    assert 2**26 < done.peak_memory < 8 * 2**30


def test_events_come_in_order(finished: tuple[Path, list[Event]]) -> None:
    _, events = finished
    kinds = [type(event) for event in events]
    order = [kinds.index(kind) for kind in (Progress, CutoutReady, ViewsReady, CoarseMeshReady, Done)]
    assert order == sorted(order)
    views = [event for event in events if isinstance(event, ViewsReady)]
    assert views[-1].final and views[-1].colors.shape == views[-1].normals.shape
    steps = [event for event in events if isinstance(event, Progress) and event.stage == "stage 1"]
    assert [event.step for event in steps] == [0, 1, 2] and steps[-1].eta is not None
    stages = dict.fromkeys(event.stage for event in events if isinstance(event, Progress))
    assert list(stages) == STAGES
    assert {event.stages for event in events if isinstance(event, Progress)} == {tuple(STAGES)}
    fine = [event for event in events if isinstance(event, Progress) and event.stage == "stage 2"]
    assert [(event.step, event.total) for event in fine] == [(0, 2), (1, 2), (2, 2)]
    look = next(i for i, event in enumerate(events) if isinstance(event, CoarseMeshReady))
    assert look < events.index(fine[0])


def test_folder_has_the_published_layout(finished: tuple[Path, list[Event]]) -> None:
    folder, _ = finished
    names = {path.name for path in (folder / "OneStage").iterdir()}
    images = {f"{kind}_{i}.png" for kind in ("color", "normal") for i in range(5)} | {
        "input.png",
        "concat.png",
    }
    assert names == images | {"latent.npz", "voxel.ply", "structure_logits.npz", "coarse.glb"}
    assert {path.name for path in (folder / "SecondStage").iterdir()} == {
        "output.glb",
        "mesh.npz",
        "texture.png",
    }
    with np.load(folder / "OneStage" / "latent.npz") as archive:
        coords = archive["coords"]
    assert coords.dtype == np.float32 and coords.shape[1] == 4 and not coords[:, 0].any()
    assert len(trimesh.load(folder / "OneStage" / "voxel.ply").vertices) == len(coords)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done" and record["seed"] == 7 and record["stage2"] is True
    assert Settings(**record["settings"]) == QUICK
    assert set(record["peak_memory"]) == set(record["seconds"])
    assert not list(folder.rglob(".*"))


def test_same_seed_same_model_other_seed_other_views(
    pipeline: SyncHuman, person_png: bytes, finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder, _ = finished
    only_views(pipeline, person_png, QUICK, tmp_path / "again")
    only_views(pipeline, person_png, QUICK.model_copy(update={"seed": 8}), tmp_path / "other")
    first, again, other = (
        RunFolder(path).read_stage_one() for path in (folder, tmp_path / "again", tmp_path / "other")
    )
    assert np.array_equal(first.colors, again.colors) and np.array_equal(first.logits, again.logits)
    assert not np.array_equal(first.colors, other.colors)


def only_views(pipeline: SyncHuman, photo: bytes, settings: Settings, folder: Path) -> None:
    """Run a photo until its final views are there."""
    events = pipeline.run(photo, settings, folder)
    assert any(isinstance(event, ViewsReady) and event.final for event in events)
    events.close()  # type: ignore[attr-defined]


def test_resume_goes_on_from_the_views(
    pipeline: SyncHuman, finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder, _ = finished
    first = pipeline_copy(folder, tmp_path)
    events = list(pipeline.resume(QUICK, first))
    assert isinstance(events[-1], Done) and events[-1].stage2
    assert list(events[-1].seconds) == STAGES[2:]
    # The seed draws Stage 2's noise as well: the same views give the same model.
    assert equal(RunFolder(first).read_mesh(), RunFolder(folder).read_mesh())
    list(pipeline.resume(QUICK.model_copy(update={"seed": 8}), first))
    assert not equal(RunFolder(first).read_mesh(), RunFolder(folder).read_mesh())


def pipeline_copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def first_stage_of(folder: Path, to: Path) -> Path:
    """A folder in which Stage 1 alone is done."""
    shutil.copytree(folder / "OneStage", to / "views" / "OneStage")
    return to / "views"


def equal(one: DenseMesh, other: DenseMesh) -> bool:
    same = one.vertices.shape == other.vertices.shape and np.array_equal(one.vertices, other.vertices)
    return same and np.array_equal(one.colors, other.colors)


def test_without_structure_decoder_the_views_are_carved(
    pipeline: SyncHuman, person_png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.stage1.networks, "structure_decoder", None)
    done = list(pipeline.run(person_png, QUICK, tmp_path, stage1_only=True))[-1]
    assert isinstance(done, Done) and NO_DECODER in done.warnings
    files = RunFolder(tmp_path).read_stage_one()
    assert np.array_equal(files.logits > 0, carve_views(files.rgba, files.colors, files.normals) > 0)


def test_stage_1_alone_is_said(
    stage1_weights: Path, person_png: bytes, tmp_path: Path, pipeline: SyncHuman
) -> None:
    alone = SyncHuman.load(str(stage1_weights), device="cpu")
    assert alone.stage2 is None
    asked = list(pipeline.run(person_png, QUICK, tmp_path / "asked", stage1_only=True))
    lacking = list(alone.run(person_png, QUICK, tmp_path / "lacking"))
    for events, folder, reason in ((asked, "asked", "as asked"), (lacking, "lacking", "no Stage 2")):
        done = events[-1]
        assert isinstance(done, Done) and not done.stage2
        assert reason in done.warnings[0] and done.warnings[1:] == said_of_weights(pipeline)
        record = json.loads((tmp_path / folder / "run.json").read_text())
        assert record["stage2"] is False and reason in record["warnings"][0]
        assert list(done.seconds) == COARSE_STAGES
        coarse = tmp_path / folder / "OneStage" / "coarse.glb"
        assert coarse.read_bytes() == done.glb.read_bytes()
        assert closed(trimesh.load(done.glb, force="mesh"))
        assert extras(done.glb)["stage2"] is False


def extras(path: Path) -> dict[str, object]:
    """What a GLB tells about its making."""
    glb = path.read_bytes()
    return json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])["asset"]["extras"]


def test_retexture_needs_no_sampling_and_no_weights(
    finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder = pipeline_copy(finished[0], tmp_path)
    before = json.loads((folder / "run.json").read_text())
    other = Settings(faces=1000, texture_size=512, stage1_steps=99, seed=1)
    events = list(SyncHuman.retexture(other, folder))
    done = events[-1]
    assert isinstance(done, Done) and done.stage2 and done.faces == pytest.approx(1000, rel=0.02)
    assert "stage 1" not in done.seconds
    assert {event.stage for event in events if isinstance(event, Progress)} == {"surface", "atlas", "texture"}
    record = json.loads((folder / "run.json").read_text())
    # How it was sampled stays on record; what changed is there, too.
    assert Settings(**record["settings"]) == QUICK.model_copy(update={"faces": 1000, "texture_size": 512})
    assert record["seconds"]["stage 1"] == before["seconds"]["stage 1"]
    assert record["created"] == before["created"] and record["faces"] == done.faces
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(SyncHuman.retexture(QUICK, folder, stop))
    assert json.loads((folder / "run.json").read_text()) == record


def test_retexture_says_what_is_missing(finished: tuple[Path, list[Event]], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"run\.json"):
        list(SyncHuman.retexture(QUICK, tmp_path))
    folder = pipeline_copy(finished[0], tmp_path)
    (folder / "SecondStage" / "mesh.npz").write_bytes(b"PK broken")
    with pytest.raises(RunFolderError, match="cannot be read as a mesh"):
        list(SyncHuman.retexture(QUICK, folder))
    (folder / "SecondStage" / "mesh.npz").unlink()
    with pytest.raises(RunFolderError, match=r"mesh\.npz is missing"):
        list(SyncHuman.retexture(QUICK, folder))


def test_a_published_folder_goes_on(
    pipeline: SyncHuman, finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    """The published code leaves images and latent.npz; a folder without even that can be carved."""
    folder = tmp_path / "published"
    (folder / "OneStage").mkdir(parents=True)
    for file in (finished[0] / "OneStage").iterdir():
        if file.suffix == ".png" or file.name == "latent.npz":
            shutil.copy(file, folder / "OneStage")
    done = list(pipeline.resume(QUICK, folder))[-1]
    assert isinstance(done, Done) and done.stage2
    assert equal(RunFolder(folder).read_mesh(), RunFolder(finished[0]).read_mesh())
    (folder / "OneStage" / "latent.npz").unlink()
    with pytest.raises(RunFolderError, match=r"latent\.npz.*--carve"):
        list(pipeline.resume(QUICK, folder))
    done = list(pipeline.resume(QUICK, folder, stage1_only=True, carve=True))[-1]
    assert isinstance(done, Done) and not done.stage2 and "carved" in done.warnings[0]
    opaque = np.full((8, 8, 4), 255, np.uint8)
    (folder / "OneStage" / "input.png").write_bytes(encode(opaque))
    with pytest.raises(RunFolderError, match="transparent"):
        list(pipeline.resume(QUICK, folder, carve=True))


STOPS = [("stage 1", 0), ("stage 1", 1), ("preview", 12), ("stage 2", 1), ("surface", 2), ("texture", 1)]


@pytest.mark.parametrize(("stage", "step"), STOPS)
def test_stop_takes_effect_at_the_next_step(
    pipeline: SyncHuman,
    finished: tuple[Path, list[Event]],
    person_png: bytes,
    tmp_path: Path,
    stage: str,
    step: int,
) -> None:
    stop = threading.Event()
    later = 0
    if stage == "stage 1":
        folder = tmp_path
        events = pipeline.run(person_png, QUICK, folder, stop)
    else:  # what comes before is there already, the texture's share of Stage 2, too
        folder = first_stage_of(finished[0], tmp_path)
        events = pipeline.resume(QUICK, folder, stop, stage1_only=stage == "texture")
    with pytest.raises(Cancelled):
        for event in events:
            later += stop.is_set() and isinstance(event, Progress)
            if isinstance(event, Progress) and (event.stage, event.step) == (stage, step):
                stop.set()
    # Surfaces and textures are made ahead of their reader by what was reported before the flag was set.
    assert later <= (0 if stage in ("stage 1", "stage 2") else 3)
    assert status(folder) == "cancelled"
    assert not (folder / "SecondStage" / "output.glb").exists()


def test_after_a_stopped_run_the_next_one_works(
    pipeline: SyncHuman, person_png: bytes, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(pipeline.run(person_png, QUICK, tmp_path, stop))
    events = list(pipeline.run(person_png, QUICK, tmp_path, stage1_only=True))
    assert isinstance(events[-1], Done) and status(tmp_path) == "done"


def test_a_reader_that_goes_away_ends_the_run(
    pipeline: SyncHuman, finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder = first_stage_of(finished[0], tmp_path)
    events = pipeline.resume(QUICK, folder, stage1_only=True)
    for event in events:
        if isinstance(event, Progress) and event.stage == "surface":
            break
    events.close()  # type: ignore[attr-defined]
    assert status(folder) == "cancelled"
    assert not [thread for thread in threading.enumerate() if thread.name == "surface"]


def test_a_bad_photo_is_marked_failed(pipeline: SyncHuman, tmp_path: Path) -> None:
    with pytest.raises(PhotoError):
        list(pipeline.run(b"no photo", QUICK, tmp_path))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed" and "PhotoError" in record["error"]


def files() -> StageOneFiles:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 24, 24, 3), dtype=np.uint8)
    rgba = rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)
    return StageOneFiles(rgba, images[0], images[1], rng.normal(size=(64, 64, 64)).astype(np.float32))


def test_stage_one_files_round_trip(tmp_path: Path) -> None:
    before = files()
    RunFolder(tmp_path).write_stage_one(before)
    after = RunFolder(tmp_path).read_stage_one()
    for name in ("rgba", "colors", "normals", "logits"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name


def test_published_folder_without_logits_gives_its_voxels(tmp_path: Path) -> None:
    before = files()
    folder = RunFolder(tmp_path)
    folder.write_stage_one(before)
    (folder.first / "structure_logits.npz").unlink()
    assert np.array_equal(folder.read_stage_one().logits > 0, before.logits > 0)


def test_broken_folders_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"latent\.npz"):
        folder.read_stage_one()
    with pytest.raises(RunFolderError, match=r"run\.json"):
        folder.read_record()
    folder.write_stage_one(files())
    (folder.first / "color_3.png").unlink()
    with pytest.raises(RunFolderError, match=r"color_3\.png"):
        folder.read_stage_one()
    folder.write_stage_one(files())
    (folder.first / "normal_0.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(RunFolderError, match="size"):
        folder.read_stage_one()
    folder.write_stage_one(files())
    (folder.first / "structure_logits.npz").write_bytes(b"PK broken")
    with pytest.raises(RunFolderError, match="logits"):
        folder.read_stage_one()


def test_work_that_fails_raises_in_the_reader() -> None:
    def work(checkpoint: object) -> None:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        list(stream_progress(work, None, Progress))


def test_names_of_places() -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        find_variant("nothing-here")
    with pytest.raises(ValueError, match="Unknown device"):
        choose_device("toaster")
    with pytest.raises(ValueError, match="float32"):
        choose_dtype("int7", choose_device("cpu"))
