"""app.py as a Space runs it: its environment, and a stand-in for `spaces` that forks as ZeroGPU does."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gradio_client
import httpx
import pytest
import torch

import app
from synchuman.serving.space import space_arguments
from synchuman.serving.zerogpu import Stopwatch, on_host, on_zerogpu

ROOT = Path(__file__).resolve().parents[1]
STEPS = 2

# As the real package where we touch it: a generator function runs in a fork, its arguments and what it yields
# are pickled, the duration is asked with the arguments, and the request says whose quota it is.
SPACES = """
import functools, inspect, json, multiprocessing, os, pickle, sys

assert "torch" not in sys.modules, "spaces has to be imported before torch"
OPEN = False

def note(**what):
    with open(os.environ["SPACES_LOG"], "a") as log:
        log.write(json.dumps(what) + "\\n")

def GPU(task=None, *, duration=None, size=None):
    if task is None:
        return functools.partial(GPU, duration=duration, size=size)
    assert inspect.isgeneratorfunction(task)
    note(what="decorated")
    context = multiprocessing.get_context("fork")

    def iterate(given, answers):
        try:
            for value in task(*pickle.loads(given)):
                answers.put(pickle.dumps(value))
            answers.put(None)
        except BaseException as error:
            answers.put(pickle.dumps(error))
        os._exit(0)

    def handler(*arguments):
        from gradio.context import LocalContext
        request = LocalContext.request.get(None)
        note(what="called", seconds=duration(*arguments), session=getattr(request, "session_hash", None))
        answers = context.SimpleQueue()
        context.Process(target=iterate, args=(pickle.dumps(arguments), answers), daemon=True).start()
        while (answer := answers.get()) is not None:
            value = pickle.loads(answer)
            if isinstance(value, BaseException):
                raise value
            yield value

    return handler
"""


@pytest.fixture
def space(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """Run app.py with a Space's environment; gives its address and the log of the stand-in."""
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in/spaces.py").write_text(SPACES)
    log = tmp_path / "spaces.jsonl"
    path = os.pathsep.join([str(ROOT), str(tmp_path / "stand-in")])
    # One thread: OpenMP's do not outlive a fork.
    env = {
        "SPACE_ID": "someone/synchuman",
        "PYTHONPATH": path,
        "SPACES_LOG": str(log),
        "OMP_NUM_THREADS": "1",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--outputs", str(tmp_path / "outputs")]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env, **request.param})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "app.py ended"
            try:
                if httpx.get(address, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, log
    finally:
        process.kill()
        process.wait()


def _stages() -> int:
    return 2 if (ROOT / "assets/mini/slat_flow.safetensors").exists() else 1


@pytest.mark.parametrize("space", [{"SPACES_ZERO_GPU": "true", "ACCELERATOR": "zero-a10g"}], indirect=True)
def test_zerogpu_space_makes_a_model(space: tuple[str, Path]) -> None:
    address, log = space
    told = [json.loads(line) for line in log.read_text().splitlines()]
    # Both stages were known, and the networks loaded, before anybody could open the page.
    assert [line["what"] for line in told] == ["decorated"] * _stages()

    client = gradio_client.Client(address, verbose=False)
    photo = gradio_client.handle_file(str(ROOT / "assets/examples/person-1.jpg"))
    steps = {"stage1_steps": STEPS, "guidance": 1.0, "stage2_steps": STEPS, "stage2_guidance": 1.0}
    size = {"faces": 2000, "texture_size": 512}
    job = client.predict(photo=photo, preset="Fast", **steps, **size, api_name="/start_person")
    told = client.predict(job_id=job["id"], seconds=300, api_name="/wait_for_job")
    assert told["state"] == "done", told
    model = client.predict(job_id=job["id"], api_name="/get_model")
    assert Path(model).read_bytes()[:4] == b"glTF"

    calls = [json.loads(line) for line in log.read_text().splitlines()][_stages() :]
    assert [call["what"] for call in calls] == ["called"] * _stages()
    assert all(call["session"] for call in calls)  # whose quota it is
    assert [call["seconds"] for call in calls] == [Stopwatch().seconds(STEPS, 1.0)] * _stages()


@pytest.mark.parametrize("space", [{"ACCELERATOR": "none", "CPU_CORES": "2"}], indirect=True)
def test_cpu_space_opens_without_spaces(space: tuple[str, Path]) -> None:
    _, log = space
    assert not log.exists()


def test_space_is_open_and_takes_its_weights_from_its_variable() -> None:
    assert space_arguments({"SPACE_ID": "a/b"})[-2:] == ["--variant", "mini"]
    chosen = space_arguments({"SPACE_ID": "a/b", "SYNCHUMAN_VARIANT": "official"})
    assert chosen[-2:] == ["--variant", "official"] and "--allow-public" in chosen
    for hardware, weights in (
        ("l40sx1", "official"),
        ("none", "mini"),
        ("cpu-basic", "mini"),
        ("zero-a10g", "mini"),
    ):
        assert space_arguments({"SPACE_ID": "a/b", "ACCELERATOR": hardware})[-1] == weights
    assert space_arguments({"ACCELERATOR": "l40sx1", "SYNCHUMAN_VARIANT": "mini"})[-1] == "mini"


@pytest.mark.parametrize(("pulled", "served"), [(0, True), (1, False)])
def test_gpu_space_fetches_the_published_weights_first(
    monkeypatch: pytest.MonkeyPatch, pulled: int, served: bool
) -> None:
    calls: list[list[str]] = []

    def command(arguments: list[str]) -> int:
        calls.append(arguments)
        return pulled if arguments[0] == "weights" else 0

    monkeypatch.setattr(app, "main", command)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setenv("ACCELERATOR", "l40sx1")
    assert app.start() == pulled
    assert calls[0] == ["weights", "pull"]
    assert [call[0] for call in calls[1:]] == (["serve"] if served else [])


@pytest.mark.parametrize(("value", "on"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_zerogpu_is_known_by_its_variable(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert on_zerogpu() is on


def test_the_time_asked_for_follows_steps_guidance_and_what_was_measured() -> None:
    watch = Stopwatch()
    assert watch.seconds(50, 3.0) > watch.seconds(50, 1.0) > watch.seconds(10, 1.0)
    before = watch.seconds(50, 3.0)
    watch.learn(50, 3.0, 10.0)
    assert watch.seconds(50, 3.0) < before
    quick = watch.seconds(50, 3.0)
    watch.learn(50, 1.0, 50.0)  # a slower card
    watch.learn(50, 3.0, 10.0)
    assert watch.seconds(50, 3.0) > quick


class Elsewhere(torch.Tensor):
    """A tensor that stands for one on a card."""

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return torch.ones(2)


def test_what_leaves_a_fork_is_in_host_memory() -> None:
    @dataclasses.dataclass(frozen=True)
    class Result:
        x: object
        steps: int = 3

    away = torch.zeros(2).as_subclass(Elsewhere)
    moved = on_host(Result(Result(away)))
    assert type(moved.x.x) is torch.Tensor and moved.x.x.tolist() == [1, 1] and moved.steps == 3
    assert on_host(Result(None)).x is None
