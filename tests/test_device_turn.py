"""Turns on a device: nobody computes there beside another one, and nobody is passed over."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

import synchuman.selfcheck
import synchuman.training.evaluate
from synchuman.cli import main
from synchuman.device_turn import device_files, turn
from synchuman.events import Cancelled
from synchuman.exit_codes import BAD_INPUT, STOPPED

CPU = torch.device("cpu")


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


@pytest.fixture
def cpu_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that stands for the CPU, in a folder where no other test computes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    [file] = device_files([CPU])
    return file


COMMANDS = {
    "selfcheck": (synchuman.selfcheck, "check_variant", ["--variant", "mini", "--networks-only"]),
    "evaluate": (synchuman.training.evaluate, "evaluate", ["--variant", "mini", "--count", "1"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_measure_have_the_device_to_themselves(
    command: str, cpu_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, work, arguments = COMMANDS[command]
    held: list[str] = []

    def look(*_: object) -> None:
        with pytest.raises(Timeout):
            FileLock(cpu_file).acquire(timeout=0)
        held.append(cpu_file.with_suffix(".holder").read_text())
        raise ValueError("This is enough.")

    monkeypatch.setattr(module, work, look)
    assert main([command, *arguments, "--device", "cpu", "--json"]) == BAD_INPUT
    assert held == [f"synchuman {command} (process {os.getpid()})"]
    assert json.loads(capsys.readouterr().out) == {"error": "This is enough."}
    with FileLock(cpu_file).acquire(timeout=0):
        pass


@pytest.mark.parametrize("command", COMMANDS)
def test_they_wait_say_so_and_can_be_stopped(
    command: str, cpu_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, work, arguments = COMMANDS[command]
    monkeypatch.setattr(module, work, lambda *_: pytest.fail("two had the device at once"))
    with turn([cpu_file], "a server", threading.Event(), print):
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        assert main([command, *arguments, "--device", "cpu"]) == STOPPED
        timer.join()
    said = capsys.readouterr().err
    assert "Waiting for cpu: a server (process" in said and "Stopped." in said, said
