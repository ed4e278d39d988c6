"""A real Ray cluster on this machine: workers that die, photos that are finished exactly once."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_stand_in
from PIL import Image
from service_server import QUICK, serving, tiny_weights

from synchuman.presets import preset
from synchuman.serving import folders
from synchuman.serving.cluster import ClusterError
from synchuman.serving.cluster import engine as cluster
from synchuman.serving.cluster.actor import Model
from synchuman.serving.cluster.parcel import Outbox, pack, unpack
from synchuman.serving.engine import EngineBroken
from synchuman.serving.jobs import JobRequest, State
from synchuman.serving.options import ServiceOptions
from synchuman.serving.service import Service

ROOT = Path(__file__).resolve().parents[1]
ACTORS = 3
PLACE = {"placement": "staged", "stage2_device": "cpu"}
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
    options = ServiceOptions(data=tmp_path / "data", variant=str(log), ray="auto", ray_actors=ACTORS, **PLACE)
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
    jobs = [service.admission.submit("me", REQUEST, photo, unlimited=True)[0] for photo in photos]
    _until(lambda: len(_running(log)) == ACTORS)  # all at once, and no more than there are actors
    lost, pid = next(iter(_running(log).items()))
    os.kill(pid, signal.SIGKILL)
    _until(lambda: all(not service.get(job.id).active for job in jobs))

    ended = [service.get(job.id) for job in jobs]
    assert [job.state for job in ended] == [State.DONE] * len(jobs), [job.failure for job in ended]
    for job, photo in zip(ended, photos):
        files = service.files(job)
        assert files["SecondStage/output.glb"].read_text() == hashlib.sha256(photo).hexdigest()
        assert json.loads(files["run.json"].read_text()) == PLACE  # the actors load as they are told
        assert "photo.png" not in files and job.result["mode"] == "full"
    finished = Counter(note["photo"] for note in ray_stand_in.notes(log) if note["what"] == "finished")
    begun = Counter(note["photo"] for note in ray_stand_in.notes(log) if note["what"] == "begun")
    assert set(finished.values()) == {1} and len(finished) == len(photos)
    assert begun[lost] == 2 and sum(begun.values()) == len(photos) + 1
    _until(lambda: all(worker.engine.status == "ready" for worker in service.workers))  # the new actor, too
    counted = {sample.name: sample.value for metric in service.metrics.collect() for sample in metric.samples}
    assert sum(worker.engine.starts for worker in service.workers) == ACTORS + 1
    assert counted["synchuman_worker_ready"] == 1  # the cluster's workers are told of as others are


@needs_ray
def test_a_running_photo_can_be_stopped_and_its_actor_goes_on(service: Service, log: Path) -> None:
    job = service.admission.submit("me", REQUEST, _photo(1))[0]
    _until(lambda: _running(log))
    service.cancel(service.get(job.id))
    _until(lambda: not service.get(job.id).active)
    assert service.get(job.id).state is State.CANCELLED and service.files(service.get(job.id)) == {}
    again = service.admission.submit("me", REQUEST, _photo(2))[0]
    _until(lambda: not service.get(again.id).active)
    assert service.get(again.id).state is State.DONE
    assert sum(worker.engine.starts for worker in service.workers) == ACTORS


@needs_ray
def test_a_photo_that_kills_its_actor_fails_after_some_tries(service: Service, log: Path) -> None:
    job = service.admission.submit("me", REQUEST, _photo(3))[0]
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
def test_serve_runs_the_real_pipeline_in_a_cluster_that_is_up(ray: Any, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = ["-m", "synchuman", "serve", f"--ray={address}", "--ray-actors=1", "--port=0", "--device=cpu"]
    command += [f"--variant={tiny_weights()}", "--placement=staged", f"--outputs={tmp_path / 'data'}"]
    with serving(tmp_path / "data", command=command) as server:
        server.ready()
        assert "SyncHuman" in server.client.get("/").text
        (worker,) = server.client.get("/info").json()["workers"]
        assert worker["device"] == "cpu" and worker["node"]
        job = server.submit(**QUICK)["id"]
        told = {name for name, _ in server.events(job)}
        assert {"progress", "cutout", "views", "coarse", "done"} <= told, server.job(job)
        assert server.job(job)["mode"] == "full"
        files = f"/jobs/{job}/files"
        assert server.client.get(f"{files}/SecondStage/output.glb").content[:4] == b"glTF"
        assert server.client.get(f"{files}/OneStage/color_0.png").status_code == 200
        assert server.client.get(f"{files}/run.json").json()["placement"] == "staged"
        assert server.stop() == 0


@needs_ray
def test_weights_that_are_not_there_are_said(ray: object) -> None:
    (engine,) = cluster.cluster_engines("auto", 1, Model("no-such-weights", "cpu"), 600)
    with pytest.raises(EngineBroken, match="no-such-weights"):
        engine.start(threading.Event())


def test_shares_of_a_cluster() -> None:
    two = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]
    assert cluster.share(two, None, Model("mini")) == [{"num_gpus": 1, "num_cpus": 1}] * 2
    assert cluster.share(two, None, Model("mini", "cpu")) == [{"num_gpus": 0, "num_cpus": 6}] * 2
    assert cluster.share([{"CPU": 2.0}], 2, Model("mini")) == [{"num_gpus": 0, "num_cpus": 1}] * 2
    with pytest.raises(ClusterError, match="2 GPUs"):
        cluster.share(two, 3, Model("mini"))
    with pytest.raises(ClusterError, match="not enough"):
        cluster.share([{"CPU": 2.0}], 3, Model("mini"))
    with pytest.raises(ClusterError, match="No machine of the cluster has 1 GPU "):
        cluster.share([{"CPU": 2.0}], None, Model("mini", "cuda"))


def test_an_actor_has_a_second_gpu_for_stage_2_on_the_same_machine() -> None:
    apart = Model("mini", "cuda", stage2_device="cuda:1")
    machines = [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert cluster.share(machines, None, apart) == [{"num_gpus": 2, "num_cpus": 1}] * 2
    assert cluster.share(machines, None, Model("mini", stage2_device="cuda"))[0]["num_gpus"] == 1
    assert len(cluster.share(machines, None, Model("mini", "cuda", stage2_device="cpu"))) == 6
    with pytest.raises(ClusterError, match="has 2 GPUs that"):
        cluster.share([{"CPU": 2.0, "GPU": 1.0}] * 2, None, apart)
    with pytest.raises(ClusterError, match="counted from 0"):
        cluster.share(machines, None, Model("mini", "cuda:2"))


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
