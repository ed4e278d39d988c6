"""`batch --ray`, and results at an address: a real cluster, and a real S3 server of this machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_stand_in
from PIL import Image

from synchuman import cli
from synchuman.serving.cluster import engine as cluster

ROOT = Path(__file__).resolve().parents[1]
ACTORS = 2
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'synchuman-studio[ray]'",
)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    import ray

    ray.cloudpickle.register_pickle_by_value(ray_stand_in)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        "local",
        num_cpus=ACTORS,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cluster, "cluster_engines", functools.partial(cluster.cluster_engines, load=ray_stand_in.load)
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), (number * 20, 100, 50)).save(folder / f"p{number}.png")
    return folder


def _batch(photos: Path, outputs: Path, log: Path, *more: str) -> int:
    common = ["--outputs", str(outputs), "--variant", str(log), "--ray=auto", f"--ray-actors={ACTORS}"]
    return cli.main(["batch", str(photos), *common, *more])


def test_a_batch_survives_a_lost_actor_and_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    log, outputs = tmp_path / "log", tmp_path / "out"
    killed: list[str] = []

    def kill_one() -> None:
        while not killed:
            for note in ray_stand_in.notes(log)[1:2]:
                os.kill(note["pid"], signal.SIGKILL)
                killed.append(note["photo"])
            time.sleep(0.05)

    threading.Thread(target=kill_one, daemon=True).start()
    assert _batch(photos, outputs, log, "--placement=staged", "--stage2-device=cpu") == 0
    notes = ray_stand_in.notes(log)
    finished = Counter(note["photo"] for note in notes if note["what"] == "finished")
    assert len(finished) == 5 and len(killed) == 1
    # Killed between the last step and handing over its result, an actor has to be repeated as well.
    assert {photo for photo, times in finished.items() if times > 1} <= set(killed)
    assert sum(note["what"] == "begun" for note in notes) == 6
    for photo in photos.iterdir():
        model = outputs / photo.stem / "SecondStage/output.glb"
        assert model.read_text() == hashlib.sha256(photo.read_bytes()).hexdigest()
        assert not (outputs / photo.stem / "photo.png").exists()
        place = json.loads((outputs / photo.stem / "run.json").read_text())
        assert place == {"placement": "staged", "stage2_device": "cpu"}

    assert _batch(photos, outputs, log) == 0
    assert ray_stand_in.notes(log) == notes  # nothing was left to do


def test_results_go_to_s3_and_an_empty_machine_goes_on_from_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        boto3.client("s3").create_bucket(Bucket="people")
        log = tmp_path / "log"
        assert _batch(photos, tmp_path / "first", log, "--upload", "s3://people/batch") == 0
        kept = {found["Key"] for found in boto3.client("s3").list_objects(Bucket="people")["Contents"]}
        assert {f"batch/p{number}/SecondStage/output.glb" for number in range(5)} < kept
        body = boto3.client("s3").get_object(Bucket="people", Key="batch/report.json")["Body"].read()
        assert {entry["state"] for entry in json.loads(body)["photos"].values()} == {"done"}

        # One model is lost there; another machine, with nothing on it, makes that one and no other.
        boto3.client("s3").delete_object(Bucket="people", Key="batch/p3/SecondStage/output.glb")
        before = len(ray_stand_in.notes(log))
        assert _batch(photos, tmp_path / "second", log, "--upload", "s3://people/batch") == 0
        again = {note["photo"] for note in ray_stand_in.notes(log)[before:]}
        assert again == {hashlib.sha256((photos / "p3.png").read_bytes()).hexdigest()}
    finally:
        server.stop()
