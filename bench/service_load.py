"""Many clients against one worker: no server errors, no lost job, a quick /health, flat memory.

    python bench/service_load.py --clients 100 --seconds 300   # load
    python bench/service_load.py --clients 1 --seconds 0 --runs 30  # soak: runs one after the other

Starts a server of its own on loopback. `--variant stand-in` takes random weights, as small as those of the
tests: that shows the service alone. Memory is what the server's process has resident: every ten seconds, and
before the load, when one job has been run, and when all is over and it has had a minute of rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
QUICK = {
    "stage1_steps": "1", "guidance": "1", "stage2_steps": "1", "stage2_guidance": "1", "faces": "1000",
    "texture_size": "256", "wait": "false",
}  # fmt: skip
EVERY, REST = 10.0, 60.0  # seconds between two looks at the memory, and of rest before the last one
FINAL = ("done", "failed", "cancelled", "interrupted")


class Load:
    """What the clients saw."""

    def __init__(self, address: str, photo: bytes) -> None:
        self.address = address
        self.photo = photo
        self.statuses: Counter[int] = Counter()
        self.jobs: dict[str, str] = {}
        self.ended = False

    async def client(self, client: httpx.AsyncClient, number: int) -> None:
        """Submit, look, follow, sometimes cancel, until the time is over."""
        turn = 0
        while not self.ended:
            turn += 1
            files = {"image": ("photo.png", self.photo)}
            answer = await self.ask(client, "POST", "/generate", data=QUICK, files=files)
            if answer is None or answer.status_code != 202:
                await asyncio.sleep(1.0)
                continue
            job = answer.json()["id"]
            self.jobs[job] = "queued"
            while not self.ended:
                shown = await self.ask(client, "GET", f"/jobs/{job}")
                if shown is not None and shown.json()["state"] in FINAL:
                    break
                if (number + turn) % 5 == 0 and number:
                    await self.ask(client, "POST", f"/jobs/{job}/cancel")
                await asyncio.sleep(1.0)

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, **more: object
    ) -> httpx.Response | None:
        """Send a request and count its status; 0 is none at all."""
        try:
            answer = await client.request(method, self.address + path, **more)  # type: ignore[arg-type]
        except httpx.HTTPError:
            self.statuses[0] += 1
            return None
        self.statuses[answer.status_code] += 1
        return answer


WATCH = """
import http.client, json, sys, time
connection, times = http.client.HTTPConnection(sys.argv[1], timeout=60), []
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.perf_counter()
    connection.request("GET", "/health")
    connection.getresponse().read()
    times.append(time.perf_counter() - began)
    time.sleep(0.1)
print(json.dumps(times))
"""


async def sample(pid: int, seconds: float) -> list[int]:
    """Return the resident MiB of a process every `EVERY` seconds."""
    samples = []
    for _ in range(int(seconds / EVERY)):
        await asyncio.sleep(EVERY)
        samples.append(memory(pid) // 2**20)
    return samples


def watch(address: str, seconds: float) -> subprocess.Popen[str]:
    """Ask /health ten times a second from a process of its own: the clients' event loop is busy itself."""
    command = [sys.executable, "-c", WATCH, address.removeprefix("http://"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def warm_up(load: Load, client: httpx.AsyncClient) -> None:
    """Run one job and look at all that is asked for later, so that every library is loaded."""
    files = {"image": ("photo.png", load.photo)}
    await client.post(f"{load.address}/generate", data={**QUICK, "wait": "true"}, files=files)
    await client.get(f"{load.address}/jobs")


async def load(chosen: argparse.Namespace, address: str, pid: int) -> dict[str, object]:
    """Run the clients and return the figures."""
    load = Load(address, chosen.photo.read_bytes())
    limits = httpx.Limits(max_connections=chosen.clients + 8)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        while (await client.get(address + "/ready")).status_code != 200:
            await asyncio.sleep(0.5)
        await warm_up(load, client)
        before = memory(pid)
        worked = cpu_seconds(pid)
        watcher = watch(address, chosen.seconds)
        work = asyncio.gather(*[load.client(client, i) for i in range(chosen.clients)])
        sampled = await sample(pid, chosen.seconds)
        load.ended = True
        await work
        worked = cpu_seconds(pid) - worked
        # Nothing that was taken may be lost: every job is there, and the rest of the queue still ends.
        for job in load.jobs:
            shown = (await client.get(f"{address}/jobs/{job}")).json()
            if shown.get("state") not in FINAL:
                await client.post(f"{address}/jobs/{job}/cancel")
        deadline = time.monotonic() + 120
        for job in load.jobs:
            while True:
                shown = (await client.get(f"{address}/jobs/{job}")).json()
                load.jobs[job] = shown.get("state", "lost")
                if load.jobs[job] in (*FINAL, "lost") or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.2)
        await asyncio.sleep(REST)
    health = sorted(json.loads(watcher.communicate()[0]))
    return {
        "clients": chosen.clients,
        "seconds": chosen.seconds,
        "statuses": dict(sorted(load.statuses.items())),
        "jobs": dict(Counter(load.jobs.values())),
        "health_p50_ms": round(1000 * health[len(health) // 2], 1),
        "health_p99_ms": round(1000 * health[int(len(health) * 0.99)], 1),
        "health_max_ms": round(1000 * health[-1], 1),
        "server_cpu_seconds": round(worked, 1),
        "server_mib_before": before // 2**20,
        "server_mib_during": sampled,
        "server_mib_after": memory(pid) // 2**20,
    }


def soak(chosen: argparse.Namespace, address: str, pid: int) -> dict[str, object]:
    """Run jobs one after the other and return the memory after each."""
    server: list[int] = []
    worker: list[int] = []
    files = {"image": ("photo.png", chosen.photo.read_bytes())}
    with httpx.Client(base_url=address, timeout=600, trust_env=False) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.5)
        for _ in range(chosen.runs):
            client.post("/generate", data={**QUICK, "wait": "true"}, files=files).raise_for_status()
            server.append(memory(pid) // 2**20)
            worker.append(memory(children(pid)[0]) // 2**20)
    return {"runs": chosen.runs, "server_mib": server, "worker_mib": worker}


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--variant", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--photo", type=Path, default=ROOT / "assets" / "examples" / "person-1.jpg")
    chosen = parser.parse_args()
    if chosen.variant == "stand-in":
        sys.path.insert(0, str(ROOT / "tests"))
        from service_server import tiny_weights

        chosen.variant = str(tiny_weights())
    with tempfile.TemporaryDirectory() as data:
        command = [
            sys.executable,
            "api_server.py",
            "--port",
            "0",
            "--data",
            data,
            "--variant",
            chosen.variant,
        ]
        process = subprocess.Popen(
            [*command, "--device", chosen.device], cwd=ROOT, text=True, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            told = {}
            if chosen.seconds:
                told["load"] = asyncio.run(load(chosen, address, process.pid))
            if chosen.runs:
                told["soak"] = soak(chosen, address, process.pid)
        finally:
            process.terminate()
            process.wait(30)
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
