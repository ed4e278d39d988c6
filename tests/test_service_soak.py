"""Runs, one after the other: nothing grows. Thirty of them with FUZZ=10; bench/service_load.py does it under load."""

from __future__ import annotations

from pathlib import Path

from fuzzing import FUZZ
from service_server import Server, shared_server

WARM_UP = 4  # until all libraries are loaded and pools are as large as they get
RUNS = 3 * FUZZ
MIB = 2**20
GROWTH = 12 * MIB  # per run; what a run makes (its mesh alone has more) would show
CLIENTS_FILES = 8


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_memory_and_open_files_stay_as_they_are() -> None:
    server: Server = shared_server().ready()
    pids = (server.process.pid, server.worker_pid())
    before: list[tuple[int, int]] = []
    for number in range(WARM_UP + RUNS):
        job = server.end(server.submit()["id"])
        assert job["state"] == "done", job["error"]
        assert server.client.delete(f"/jobs/{job['id']}").status_code == 204
        if number == WARM_UP - 1:
            before = [(resident(pid), open_files(pid)) for pid in pids]
    assert server.worker_pid() == pids[1], "the worker was replaced meanwhile"
    for pid, (memory, files) in zip(pids, before):
        assert resident(pid) - memory < RUNS * GROWTH, (resident(pid) // MIB, memory // MIB)
        assert open_files(pid) - files < CLIENTS_FILES
    assert not list((server.data / "tmp").iterdir())
