"""A real Ray cluster on this machine: workers that die, photos that are finished exactly once."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray_stand_in
from PIL import Image

from synchuman.presets import preset
from synchuman.serving import folders
from synchuman.serving.cluster import ClusterError
from synchuman.serving.cluster import engine as cluster
from synchuman.serving.cluster.parcel import Outbox, pack, unpack
from synchuman.serving.engine import EngineBroken
from synchuman.serving.jobs import Job, JobRequest, State
from synchuman.serving.options import ServiceOptions
from synchuman.serving.service import Service

ROOT = Path(__file__).resolve().parents[1]
ACTORS = 3
REQUEST = JobRequest(settings=preset("Fast"))

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'synchuman-studio[ray]'",
)


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(ray_stand_in)
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        "local",
        num_cpus=ACTORS + 1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}},
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def service(ray: object, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    light = functools.partial(cluster.cluster_engines, load=ray_stand_in.load)
    monkeypatch.setattr(cluster, "cluster_engines", light)
    options = ServiceOptions(data=tmp_path / "data", variant=str(log), ray="auto", ray_actors=ACTORS)
    service = Service(options)
    service.start()
    yield service
    service.close()


def _photo(number: int) -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (number * 20, 100, 50)).save(picture, "PNG")
    picture.seek(0)
    return folders.clean_photo(picture)


def _until(what: Callable[[], object], seconds: float = 90) -> None:
    for _ in range(int(seconds * 20)):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def _running(log: Path) -> dict[str, int]:
    """Return the processes of photos that have begun and not finished."""
    begun: dict[str, int] = {}
    for note in ray_stand_in.notes(log):
        if note["what"] == "begun":
            begun[note["photo"]] = note["pid"]
        else:
            begun.pop(note["photo"])
    return begun


@needs_ray
def test_every_photo_is_finished_exactly_once_though_an_actor_dies(service: Service, log: Path) -> None:
    photos = [_photo(number) for number in range(8)]
    jobs = [service.submit("me", REQUEST, photo, unlimited=True)[0] for photo in photos]
    _until(lambda: len(_running(log)) == ACTORS)  # all at once, and no more than there are actors
    lost, pid = next(iter(_running(log).items()))
    os.kill(pid, signal.SIGKILL)
    _until(lambda: all(not service.get(job.id).active for job in jobs))

    ended = [service.get(job.id) for job in jobs]
    assert [job.state for job in ended] == [State.DONE] * len(jobs), [job.failure for job in ended]
    for job, photo in zip(ended, photos):
        files = service.files(job)
        assert files["SecondStage/output.glb"].read_text() == hashlib.sha256(photo).hexdigest()
        assert "photo.png" not in files and job.result["mode"] == "full"
    finished = Counter(note["photo"] for note in ray_stand_in.notes(log) if note["what"] == "finished")
    begun = Counter(note["photo"] for note in ray_stand_in.notes(log) if note["what"] == "begun")
    assert set(finished.values()) == {1} and len(finished) == len(photos)
    assert begun[lost] == 2 and sum(begun.values()) == len(photos) + 1
    counted = {sample.name: sample.value for metric in service.metrics.collect() for sample in metric.samples}
    assert sum(worker.engine.starts for worker in service.workers) == ACTORS + 1
    assert counted["synchuman_worker_ready"] == 1  # the cluster's workers are told of as others are


@needs_ray
def test_a_running_photo_can_be_stopped_and_its_actor_goes_on(service: Service, log: Path) -> None:
    job = service.submit("me", REQUEST, _photo(1))[0]
    _until(lambda: _running(log))
    service.cancel(service.get(job.id))
    _until(lambda: not service.get(job.id).active)
    assert service.get(job.id).state is State.CANCELLED and service.files(service.get(job.id)) == {}
    again = service.submit("me", REQUEST, _photo(2))[0]
    _until(lambda: not service.get(again.id).active)
    assert service.get(again.id).state is State.DONE
    assert sum(worker.engine.starts for worker in service.workers) == ACTORS


@needs_ray
def test_a_photo_that_kills_its_actor_fails_after_some_tries(service: Service, log: Path) -> None:
    job = service.submit("me", REQUEST, _photo(3))[0]
    killed = set()

    def over() -> bool:
        for pid in set(_running(log).values()) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return not service.get(job.id).active

    _until(over)
    failure = service.get(job.id).failure
    assert failure is not None and failure.code == "worker_died" and len(killed) == 3


@needs_ray
def test_the_real_pipeline_in_an_actor(ray: object, tmp_path: Path) -> None:
    (engine,) = cluster.cluster_engines("auto", 1, "mini", "cpu", "float32", 600)
    stop = threading.Event()
    told: list[str] = []
    photo = io.BytesIO((ROOT / "assets/examples/person-1.jpg").read_bytes())
    folders.make(tmp_path / "run", folders.clean_photo(photo))
    quick = preset("Fast", stage1_steps=1, stage2_steps=1, faces=1000, texture_size=256)
    try:
        engine.start(stop)
        assert engine.about["device"] == "cpu" and engine.about["node"]
        request = JobRequest(settings=quick, stage1_only=True)
        outcome = engine.run(
            Job("me", request, 0.0), tmp_path / "run", stop, lambda name, _: told.append(name)
        )
    finally:
        engine.close()
    assert outcome.state is State.DONE, outcome.failure
    assert (tmp_path / "run" / outcome.result["glb"]).read_bytes()[:4] == b"glTF"
    assert {"progress", "cutout", "views", "coarse"} <= set(told)
    assert (tmp_path / "run/OneStage/color_0.png").exists() and (tmp_path / "run/run.json").exists()


@needs_ray
def test_weights_that_are_not_there_are_said(ray: object) -> None:
    (engine,) = cluster.cluster_engines("auto", 1, "no-such-weights", "cpu", "float32", 600)
    with pytest.raises(EngineBroken, match="no-such-weights"):
        engine.start(threading.Event())


def test_shares_of_a_cluster() -> None:
    two = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]
    assert cluster.share(two, None, "auto") == [{"num_gpus": 1, "num_cpus": 1}] * 2
    assert cluster.share(two, None, "cpu") == [{"num_gpus": 0, "num_cpus": 6}] * 2
    assert cluster.share([{"CPU": 2.0}], 2, "auto") == [{"num_gpus": 0, "num_cpus": 1}] * 2
    with pytest.raises(ClusterError, match="2 GPUs"):
        cluster.share(two, 3, "auto")
    with pytest.raises(ClusterError, match="not enough"):
        cluster.share([{"CPU": 2.0}], 3, "auto")


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match="pip install"):
        cluster.connect("auto")


def test_parcels_bring_what_is_new_and_nothing_out_of_the_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "old").write_text("old")
    outbox = Outbox(here)
    unpack({"a/b": b"1", ".half": b"x"}, here)
    assert outbox.new() == {"a/b": b"1"} and outbox.new() == {}
    unpack({"a/b": b"2"}, here)
    assert outbox.new() == {"a/b": b"2"}
    unpack(pack(here), there)
    assert {path.name for path in there.rglob("*") if path.is_file()} == {"old", "b"}
    with pytest.raises(ValueError, match="out of"):
        unpack({"../x": b""}, there)
