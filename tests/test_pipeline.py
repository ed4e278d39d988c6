"""The whole way from a photo to a GLB, its run folder, and runs that are stopped."""

from __future__ import annotations

import json
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
from synchuman.pipeline import SyncHuman
from synchuman.placement import choose_device, choose_dtype, variant_folder
from synchuman.runfolder import RunFolder, RunFolderError, StageOneFiles
from synchuman.settings import Settings
from synchuman.worker import stream_progress

QUICK = Settings(stage1_steps=2, guidance=1.0, faces=1500, texture_size=256, seed=7)


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


@pytest.fixture(scope="module")
def finished(
    pipeline: SyncHuman, person_png: bytes, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, list(pipeline.run(person_png, QUICK, folder))


def test_photo_to_glb(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    done = events[-1]
    assert isinstance(done, Done) and done.glb == folder / "SecondStage" / "output.glb"
    model = trimesh.load(done.glb, force="mesh")
    assert len(model.faces) == done.faces > 500
    assert model.extents[1] == pytest.approx(1.7, abs=0.02)
    assert set(done.seconds) == {"cut-out", "stage 1", "surface", "atlas", "texture"}
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
    assert list(stages) == ["cut-out", "stage 1", "surface", "atlas", "texture"]


def test_folder_has_the_published_layout(finished: tuple[Path, list[Event]]) -> None:
    folder, _ = finished
    names = {path.name for path in (folder / "OneStage").iterdir()}
    images = {f"{kind}_{i}.png" for kind in ("color", "normal") for i in range(5)} | {
        "input.png",
        "concat.png",
    }
    assert names == images | {"latent.npz", "voxel.ply", "structure_logits.npz"}
    with np.load(folder / "OneStage" / "latent.npz") as archive:
        coords = archive["coords"]
    assert coords.dtype == np.float32 and coords.shape[1] == 4 and not coords[:, 0].any()
    assert len(trimesh.load(folder / "OneStage" / "voxel.ply").vertices) == len(coords)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done" and record["seed"] == 7
    assert Settings(**record["settings"]) == QUICK
    assert set(record["peak_memory"]) == set(record["seconds"])
    assert not list(folder.rglob(".*"))


def test_same_seed_same_model_other_seed_other_views(
    pipeline: SyncHuman, person_png: bytes, finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder, _ = finished
    list(pipeline.run(person_png, QUICK, tmp_path / "again"))
    list(pipeline.run(person_png, QUICK.model_copy(update={"seed": 8}), tmp_path / "other"))
    first, again, other = (
        RunFolder(path).read_stage_one() for path in (folder, tmp_path / "again", tmp_path / "other")
    )
    assert np.array_equal(first.colors, again.colors) and np.array_equal(first.logits, again.logits)
    assert not np.array_equal(first.colors, other.colors)


def test_resume_rebuilds_the_model_without_sampling(
    pipeline: SyncHuman, finished: tuple[Path, list[Event]]
) -> None:
    folder, _ = finished
    events = list(pipeline.resume(QUICK.model_copy(update={"faces": 1000}), folder))
    assert isinstance(events[-1], Done)
    assert not any(isinstance(event, Progress) and event.stage == "stage 1" for event in events)


@pytest.mark.parametrize(("stage", "step"), [("stage 1", 0), ("stage 1", 1), ("surface", 2), ("texture", 1)])
def test_stop_takes_effect_at_the_next_step(
    pipeline: SyncHuman, person_png: bytes, tmp_path: Path, stage: str, step: int
) -> None:
    stop = threading.Event()
    later = 0
    with pytest.raises(Cancelled):
        for event in pipeline.run(person_png, QUICK, tmp_path, stop):
            later += stop.is_set() and isinstance(event, Progress)
            if isinstance(event, Progress) and (event.stage, event.step) == (stage, step):
                stop.set()
    # Surface and texture work ahead of their reader by what was reported before the flag was set.
    assert later <= (0 if stage == "stage 1" else 3)
    assert status(tmp_path) == "cancelled"
    assert not (tmp_path / "SecondStage" / "output.glb").exists()


def test_after_a_stopped_run_the_next_one_works(
    pipeline: SyncHuman, person_png: bytes, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(pipeline.run(person_png, QUICK, tmp_path, stop))
    events = list(pipeline.run(person_png, QUICK, tmp_path))
    assert isinstance(events[-1], Done) and status(tmp_path) == "done"


def test_a_reader_that_goes_away_ends_the_run(pipeline: SyncHuman, person_png: bytes, tmp_path: Path) -> None:
    events = pipeline.run(person_png, QUICK, tmp_path)
    for event in events:
        if isinstance(event, Progress) and event.stage == "surface":
            break
    events.close()  # type: ignore[attr-defined]
    assert status(tmp_path) == "cancelled"
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
        list(stream_progress(work, None, lambda stage, step, total: None))


def test_names_of_places() -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        variant_folder("nothing-here")
    with pytest.raises(ValueError, match="Unknown device"):
        choose_device("toaster")
    with pytest.raises(ValueError, match="float32"):
        choose_dtype("int7", choose_device("cpu"))
