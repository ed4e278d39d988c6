"""Runs, one after the other: nothing grows. Fifty of them with FUZZ=10; bench/service_load.py does it under load."""

from __future__ import annotations

from pathlib import Path

from fuzzing import FUZZ
from service_server import Server, shared_server

WARM_UP = 2  # until all libraries are loaded and pools are as large as they get
LOOKS = 3  # what is in use moves by tens of MiB from run to run; the least of some looks hardly does
RUNS = 5 * FUZZ
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
    looks: dict[int, list[tuple[int, int]]] = {pid: [] for pid in pids}
    for _ in range(WARM_UP + LOOKS + RUNS):
        job = server.end(server.submit()["id"])
        assert job["state"] == "done", job["error"]
        assert server.client.delete(f"/jobs/{job['id']}").status_code == 204
        for pid, of_process in looks.items():
            of_process.append((resident(pid), open_files(pid)))
    assert server.worker_pid() == pids[1], "the worker was replaced meanwhile"
    for of_process in looks.values():
        memory, files = zip(*of_process)
        assert _growth(memory) < RUNS * GROWTH, [size // MIB for size in memory]
        assert _growth(files) < CLIENTS_FILES, files
    assert not list((server.data / "tmp").iterdir())


def _growth(values: tuple[int, ...]) -> int:
    """Of the least of the last looks over the least of the first ones after the warm-up, `RUNS` runs before."""
    return min(values[-LOOKS:]) - min(values[WARM_UP : WARM_UP + LOOKS])
