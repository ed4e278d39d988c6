"""What goes wrong around jobs: killed servers and workers, no memory, no disk, two servers on one device."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from service_server import QUICK, ROOT, Server, broken_weights, person, serving, tiny_weights

from synchuman.device_turn import device_files, turn
from synchuman.serving.engine import Engine, child_arguments
from synchuman.serving.jobs import Job, JobRequest
from synchuman.serving.options import Limits, ServiceOptions
from synchuman.settings import Settings

LONG = 100  # steps: a run that is still sampling when the test looks at it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash")


@pytest.fixture(scope="module")
def locks(place: Path) -> Path:
    """Where both servers lock their device."""
    return place / "locks"


@pytest.fixture(scope="module")
def restarted(place: Path, locks: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server killed in the middle of a run, started again with a Stage 2 that fails, and its jobs."""
    first = Server(place / "data", locks=locks).ready()
    jobs = {"done": first.submit()["id"]}
    first.end(jobs["done"])
    jobs["running"] = first.submit(stage1_steps=LONG)["id"]
    jobs["queued"] = first.submit(stage1_steps=1)["id"]
    first.until_event(jobs["running"], "views")
    worker = first.worker_pid()
    first.kill()
    first.close()
    end = time.monotonic() + 15
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < end, "the worker outlives its server"
        time.sleep(0.05)
    # What a server killed a moment earlier or later leaves behind.
    (place / "data" / "jobs" / ("0" * 32) / "OneStage").mkdir(parents=True)
    (place / "data" / "tmp" / "half.zip").write_bytes(b"half")
    assert (place / "data" / "jobs" / jobs["running"]).exists()
    with serving(place / "data", locks=locks, weights=broken_weights()) as server:
        yield server, jobs


def test_after_a_kill_states_are_honest_and_the_disk_is_swept(
    restarted: tuple[Server, dict[str, str]],
) -> None:
    server, jobs = restarted
    assert server.job(jobs["running"])["state"] == "interrupted"
    assert server.job(jobs["running"])["success"] is False
    assert server.job(jobs["queued"])["state"] in ("queued", "running")
    kept = server.job(jobs["done"])
    assert server.client.get(kept["outputs"]["glb"]).content[:4] == b"glTF"
    folders = {path.name for path in (server.data / "jobs").iterdir()}
    assert folders == {jobs["done"], jobs["queued"]}
    assert not list((server.data / "tmp").iterdir())


def test_what_waited_before_the_kill_runs_after_it(restarted: tuple[Server, dict[str, str]]) -> None:
    server, jobs = restarted
    assert server.end(jobs["queued"])["state"] == "done"


def test_a_stage2_that_fails_is_an_error(restarted: tuple[Server, dict[str, str]]) -> None:
    server, _ = restarted
    told = server.submit(expect=422, **QUICK, wait=True)  # who waits hears it as the answer
    job = server.job(told["job"]["id"])
    assert told["code"] == "run_failed" and told["detail"] == job["error"]["message"]
    assert job["state"] == "failed" and job["error"]["code"] == "run_failed", job
    assert "no surface" in job["error"]["message"] and job["outputs"] == {}


def test_or_stage1_with_a_word_where_that_was_asked_for(restarted: tuple[Server, dict[str, str]]) -> None:
    server, _ = restarted
    job = server.end(server.submit(**QUICK, graceful_fallback=True)["id"])
    assert job["state"] == "done" and job["mode"] == "stage1_only" and job["success"], job
    assert "no surface" in job["fallback"] and 0 < job["faces"] <= 1000
    assert server.client.get(job["outputs"]["glb"]).content[:4] == b"glTF"
    assert server.client.get(f"/jobs/{job['id']}/files/run.json").json()["status"] == "done"


def test_a_second_server_on_the_same_folder_is_refused(restarted: tuple[Server, dict[str, str]]) -> None:
    server, _ = restarted
    second = subprocess.run(
        [sys.executable, str(ROOT / "api_server.py"), "--port", "0", "--data", str(server.data)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert second.returncode == 3 and "Another server uses" in second.stderr


def test_a_worker_without_memory_says_so_and_goes_on(restarted: tuple[Server, dict[str, str]]) -> None:
    server, _ = restarted
    worker = server.ready().worker_pid()
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    everything = resource.prlimit(worker, resource.RLIMIT_AS)
    resource.prlimit(worker, resource.RLIMIT_AS, (size + 2**20, everything[1]))
    # Larger than what earlier runs gave back and the worker still holds.
    failed = server.end(server.submit(texture_size=4096)["id"])
    assert failed["state"] == "failed" and failed["error"]["code"] == "out_of_memory"
    assert "texture" in failed["error"]["message"]
    resource.prlimit(worker, resource.RLIMIT_AS, everything)
    job = server.submit(stage1_steps=LONG)
    server.until_event(job["id"], "views")
    server.client.delete(f"/jobs/{job['id']}")
    assert server.worker_pid() == worker


def test_a_killed_worker_fails_its_job_and_comes_back(restarted: tuple[Server, dict[str, str]]) -> None:
    server, _ = restarted
    job = server.ready().submit(stage1_steps=LONG)
    server.until_event(job["id"], "progress", "stage 1")
    os.kill(server.worker_pid(), signal.SIGKILL)
    failed = server.end(job["id"], 10)
    assert failed["state"] == "failed" and failed["error"]["code"] == "worker_died"
    assert not (server.data / "jobs" / job["id"]).exists()
    # That it comes back is what the tests below need.


@pytest.fixture(scope="module")
def small_disk(place: Path, locks: Path, restarted: tuple[Server, dict[str, str]]) -> Iterator[Server]:
    """A server whose data are on a disk of 900 KiB: enough for the store and a photo, not for a run."""
    data = place / "small"
    data.mkdir()
    mounted = shutil.which("mount") is not None and os.geteuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(data)]
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        with serving(data, "--min-free-gb", "0.00001", "--max-run-seconds", "60", locks=locks) as server:
            server.small = mounted  # type: ignore[attr-defined]
            yield server.ready()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(data)], check=True)


def test_two_servers_never_compute_on_one_device_at_once(
    restarted: tuple[Server, dict[str, str]], small_disk: Server
) -> None:
    first = restarted[0].ready()
    one = first.submit(stage1_steps=LONG)
    first.until_event(one["id"], "views")
    two = small_disk.submit(stage1_steps=LONG)
    small_disk.until_event(two["id"], "waiting")
    time.sleep(0.5)
    assert first.job(one["id"])["state"] == "running"
    assert small_disk.job(two["id"])["progress"] is None
    first.client.post(f"/jobs/{one['id']}/cancel")
    small_disk.until_event(two["id"], "progress")
    assert first.end(one["id"])["state"] == "cancelled"
    small_disk.client.post(f"/jobs/{two['id']}/cancel")
    assert small_disk.end(two["id"])["state"] == "cancelled"


def test_two_workers_of_a_server_never_compute_on_one_device_at_once(tmp_path: Path) -> None:
    """A device that is named twice has two workers, and still one run at a time."""
    with serving(tmp_path / "data", "--device", "cpu,cpu") as server:
        all_ready = "2 of 2 workers are ready"
        server.until(
            lambda: server.client.get("/ready").json()["checks"]["worker"]["detail"] == all_ready, 240
        )
        one = server.submit(stage1_steps=LONG)
        server.until_event(one["id"], "views")
        two = server.submit(stage1_steps=LONG)
        server.until_event(two["id"], "waiting")
        time.sleep(0.5)
        states = [server.job(job["id"]) for job in (one, two)]
        assert [job["state"] for job in states] == ["running", "running"]
        assert states[0]["progress"] is not None and states[1]["progress"] is None
        server.client.post(f"/jobs/{one['id']}/cancel")
        server.until_event(two["id"], "progress")
        server.client.post(f"/jobs/{two['id']}/cancel")
        assert [server.end(job["id"])["state"] for job in (one, two)] == ["cancelled", "cancelled"]


def start_command(locks: Path, work: Path) -> subprocess.Popen[str]:
    """Start `run` where the servers lock their device."""
    photo = work.with_suffix(".png")
    photo.write_bytes(person())
    arguments = ["run", "--image", photo, "--workdir", work, "--variant", tiny_weights(), "--device", "cpu"]
    arguments += ["--stage1_steps", LONG, "--guidance", 1, "--stage1-only"]
    return subprocess.Popen(
        [sys.executable, "-m", "synchuman", *map(str, arguments)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(locks), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip


def test_a_command_and_a_server_never_compute_at_once(
    restarted: tuple[Server, dict[str, str]], locks: Path, tmp_path: Path
) -> None:
    server = restarted[0].ready()
    job = server.submit(stage1_steps=LONG)["id"]
    server.until_event(job, "views")
    # The command waits for the server, and says so.
    with start_command(locks, tmp_path / "work") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "Waiting for cpu: a server (process" in said, said
        time.sleep(0.5)
        assert not (tmp_path / "work").exists() and server.job(job)["state"] == "running"
        server.client.post(f"/jobs/{job}/cancel")
        record = tmp_path / "work" / "run.json"
        server.until(record.exists)
        # The server waits for the command, and says so.
        job = server.submit(stage1_steps=1)["id"]
        server.until_event(job, "waiting")
        assert server.job(job)["progress"] is None
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert json.loads(record.read_text())["status"] == "cancelled"
    assert server.end(job)["state"] == "done"
    assert "synchuman run (process" in server.log.read_text()


def test_a_full_disk_is_said_and_left_clean(small_disk: Server) -> None:
    if not small_disk.small:  # type: ignore[attr-defined]
        pytest.skip("mounting a small disk takes root")
    failed = small_disk.end(small_disk.submit()["id"])
    assert failed["state"] == "failed" and failed["error"]["code"] == "disk_full", failed
    assert not list((small_disk.data / "jobs").iterdir())
    assert small_disk.client.get("/health").status_code == 200
    # Nothing at all is free: refused with a reason, and not lost when it is over.
    filler = small_disk.data / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(bytes(2**20))
    assert small_disk.submit(expect=507)["code"] == "disk_full"
    assert small_disk.client.get("/ready").json()["checks"]["disk"]["ok"] is False
    filler.unlink()
    assert small_disk.client.get("/ready").status_code == 200


def test_a_stopped_server_says_so_to_who_waits(small_disk: Server) -> None:
    """Last, because it ends the server."""
    job = small_disk.submit(stage1_steps=LONG)
    small_disk.until_event(job["id"], "progress")
    waiting = small_disk.submit(stage1_steps=LONG)
    events, others = small_disk.events(job["id"]), small_disk.events(waiting["id"])
    next(events)
    assert next(others)[0] == "queued"
    began = time.monotonic()
    small_disk.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(httpx.HTTPError):
        assert list(events)[-1][0] == "interrupted"
        assert "running" not in [name for name, _ in others]
    assert small_disk.process.wait(15) == 0 and time.monotonic() - began < 10


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """With the engine alone: a real process, a second as its limit, and somebody before it for longer."""
    options = ServiceOptions(variant=str(tiny_weights()), limits=Limits(max_run_seconds=1.0))
    engine = Engine("cpu", options.limits.max_run_seconds, child_arguments(options, "cpu", tmp_path))
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "photo.png").write_bytes(person())
    told: list[str] = []
    held, waits = threading.Event(), threading.Event()

    def hold() -> None:
        with turn(device_files([torch.device("cpu")], tmp_path), "a test", threading.Event(), print):
            held.set()
            assert waits.wait(60)
            time.sleep(1.5)

    def report(name: str, data: dict[str, object]) -> None:
        told.append(name)
        if name == "waiting":
            waits.set()

    job = Job("a", JobRequest(settings=Settings(stage1_steps=LONG)), time.time())
    try:
        engine.start(threading.Event())
        assert engine.status == "ready" and engine.about["device"] == "cpu"
        threading.Thread(target=hold, daemon=True).start()
        assert held.wait(10)
        outcome = engine.run(job, folder, threading.Event(), report)
    finally:
        engine.close()
    assert outcome.failure is not None and outcome.failure.code == "timeout"
    assert told[0] == "waiting" and "progress" in told and engine.pid is None


def test_a_server_whose_weights_are_not_there_takes_no_jobs(tmp_path: Path) -> None:
    with serving(tmp_path / "data", weights=tmp_path / "nothing here") as server:
        early = server.submit()
        server.until(lambda: "cannot be started" in server.client.get("/ready").text, 120)
        refused = server.submit(expect=503)
        assert refused["code"] == "not_ready" and "nothing here" not in refused["detail"]
        # What came before that was known does not wait for ever.
        failed = server.end(early["id"], 120)
        assert failed["state"] == "failed" and failed["error"]["code"] == "not_ready"
