"""Turns on a device: nobody computes there beside another one, and nobody is passed over."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from synchuman.device_turn import device_files, turn
from synchuman.events import Cancelled

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
