"""A server that is told to stop: soon, however many windows are open on it, and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_server import FINAL, Server

from synchuman.serving.jobs import State
from synchuman.serving.store import JobStore

SOON = 8.0  # seconds; it takes two, and took 25 while a window was open
LONG = 100  # steps


class Window:
    """What a browser's window keeps open: a stream that is read until it ends."""

    def __init__(self, server: Server, path: str) -> None:
        """Open it and wait for its first line."""
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(f"{server.address}{path}",), daemon=True)
        self._thread.start()
        assert self._opened.wait(30), path

    def ended(self) -> list[str]:
        """Wait for a clean end; return all lines."""
        self._thread.join(SOON)
        assert not self._thread.is_alive() and self.error is None, self.error
        return self.lines

    def _read(self, url: str) -> None:
        try:
            with httpx.stream("GET", url, timeout=60, trust_env=False) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    self.lines.append(line)
                    self._opened.set()
        except Exception as error:
            self.error = error
            self._opened.set()


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data", "--page", works=request.param)
    yield server
    server.close()


def stopped(server: Server) -> float:
    """Tell a server to stop; return the seconds that it took, after a clean end."""
    began = time.monotonic()
    assert server.stop() == 0, server.log.read_text()
    took = time.monotonic() - began
    assert "Traceback" not in server.log.read_text() and " ERROR " not in server.log.read_text()
    return took


@pytest.mark.parametrize("server", [False], indirect=True)
def test_open_windows_do_not_hold_a_server_up(server: Server) -> None:
    job = server.submit()["id"]
    heartbeats = [Window(server, f"/gradio_api/heartbeat/window{number}") for number in range(3)]
    events = Window(server, f"/jobs/{job}/events")
    assert stopped(server) < SOON
    for window in heartbeats:
        assert window.ended()[0] == "data: ALIVE"
    # What waits goes on waiting: its followers come back when the server does.
    assert not {f"event: {state}" for state in FINAL} & set(events.ended())
    assert JobStore(server.data / "jobs.sqlite").get(job).state is State.QUEUED


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_run_ends_with_its_step_and_says_so(server: Server) -> None:
    server.ready()
    done = server.end(server.submit()["id"])["id"]
    running, waiting = server.submit(stage1_steps=LONG)["id"], server.submit()["id"]
    server.until_event(running, "progress")
    heartbeat = Window(server, "/gradio_api/heartbeat/window")
    events = Window(server, f"/jobs/{running}/events")
    assert stopped(server) < SOON
    assert "event: interrupted" in events.ended()
    assert heartbeat.ended()
    store = JobStore(server.data / "jobs.sqlite")
    kept = [store.get(job) for job in (done, running, waiting)]
    assert [job.state for job in kept] == [State.DONE, State.INTERRUPTED, State.QUEUED]
    assert {path.name for path in (server.data / "jobs").iterdir()} == {done, waiting}
