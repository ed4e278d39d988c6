"""A command's turn on the device that it computes on, and a word about who is there before it."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from synchuman.commands.outcome import stop_on_signals

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def own_turn(
    options: argparse.Namespace, console: Console, stop: threading.Event, on: str | None = None
) -> Iterator[None]:
    """Have the device to ourselves for the length of a block; says whom it waits for, if it has to.

    Args:
        options: Of the command, from `knobs.add_model`.
        console: For people.
        stop: Set it to give up waiting.
        on: The one device to take; None for those of the options.

    Raises:
        Cancelled: `stop` was set.
        ValueError: There is no such device.
    """
    from synchuman.device_turn import device_files, turn
    from synchuman.placement import choose_devices

    devices = choose_devices(on or options.device, None if on else options.stage2_device)

    def say(holder: str) -> None:
        names = " and ".join(dict.fromkeys(str(device) for device in devices))
        console.print(f"Waiting for {names}: {holder} computes there.", style="yellow", highlight=False)

    with turn(device_files(devices), f"synchuman {options.command}", stop, say):
        yield


@contextmanager
def waited_turn(options: argparse.Namespace) -> Iterator[None]:
    """Have the one device of the options to ourselves; signals end the waiting, and interrupt the block.

    Args:
        options: Of a command that has `--device` alone.

    Raises:
        Cancelled: A signal came while it waited.
        ValueError: There is no such device.
    """
    from rich.console import Console

    with ExitStack() as stack:
        with stop_on_signals() as stop:
            stack.enter_context(own_turn(options, Console(stderr=True), stop, options.device))
        yield
