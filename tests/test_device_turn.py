"""Turns on a device: servers and commands never compute there at once, and nobody is passed over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from service_server import ROOT, Server, person, serving, tiny_weights

from synchuman.device_turn import device_files, turn
from synchuman.events import Cancelled

CPU = torch.device("cpu")
LONG = 100  # steps: a run that is still sampling when the test looks at it


def test_who_waits_comes_before_who_had_a_turn(tmp_path: Path) -> None:
    files = device_files([CPU], tmp_path)
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with turn(files, "second", threading.Event(), lambda holder: (order.append(holder), waits.set())):
            order.append("second")

    with turn(files, "first", threading.Event(), order.append):
        other = threading.Thread(target=second)
        other.start()
        assert waits.wait(10)
    with turn(files, "first again", threading.Event(), lambda holder: None):
        order.append("first again")
    other.join()
    assert order == [f"first (process {os.getpid()})", "second", "first again"]


def test_waiting_ends_when_it_is_stopped(tmp_path: Path) -> None:
    files, stop = device_files([CPU], tmp_path), threading.Event()
    with turn(files, "first", threading.Event(), print):
        with pytest.raises(Cancelled), turn(files, "second", stop, lambda holder: stop.set()):
            raise AssertionError("two had the device at once")
    with turn(files, "third", threading.Event(), lambda holder: pytest.fail(holder)):
        pass


def command(server: Server, work: Path, *more: object) -> subprocess.Popen[str]:
    """Start `run` where the server locks its device, too."""
    photo = work.with_suffix(".png")
    photo.write_bytes(person())
    arguments = ["run", "--image", photo, "--workdir", work, "--variant", tiny_weights(), "--device", "cpu"]
    arguments += ["--guidance", 1, "--faces", 1000, "--texture_size", 256, "--stage1-only", *more]
    env = {**os.environ, "TMPDIR": str(server.data / "tmpdir"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "synchuman", *map(str, arguments)],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def test_a_command_and_a_server_never_compute_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.ready()
        job = server.submit(stage1_steps=LONG)["id"]
        server.until_event(job, "views")
        # The command waits for the server, and says so.
        with command(server, tmp_path / "work", "--stage1_steps", LONG) as process:
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
