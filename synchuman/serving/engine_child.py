"""The process that computes: owns the networks and the device, runs one job after the other.

It reads commands as lines of JSON from its standard input and writes what happens as lines of JSON. When the
input ends, its server is gone, however that happened: it exits at once and with it go device and memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from synchuman.device_turn import device_files
from synchuman.serving.engine_load import load_pipeline, loading_teller
from synchuman.serving.runner import Runner, Tell

LOGGER = logging.getLogger(__name__)

NICENESS = 2  # on a CPU that both share, the server answers first


def main(arguments: list[str] | None = None) -> int:
    """Load the networks, then serve commands until the input ends."""
    parser = argparse.ArgumentParser()
    for name in ("variant", "device", "dtype", "placement"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--stage2-device")
    parser.add_argument("--locks", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="worker: %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Control-C in a terminal reaches the whole group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    tell = _teller()
    commands = Commands()
    # From the start, so that a server killed meanwhile leaves nothing behind that loads networks.
    threading.Thread(target=commands.listen, name="commands", daemon=True).start()
    try:
        places = options.placement, options.stage2_device
        pipeline, about = load_pipeline(
            options.variant, options.device, options.dtype, *places, report=loading_teller(tell)
        )
    except Exception as error:
        LOGGER.exception("the networks could not be loaded")
        tell("broken", message=f"The networks could not be loaded: {error}")
        return 1
    tell("ready", **about)
    runner = Runner(pipeline, device_files(pipeline.devices, options.locks), tell)
    while True:
        runner.work(*commands.next())


class Commands:
    """What the server says: jobs to run, and the job to stop."""

    def __init__(self) -> None:
        """Wait for the first."""
        self._tasks: queue.SimpleQueue[tuple[dict[str, Any], threading.Event]] = queue.SimpleQueue()
        self._stops: dict[str, threading.Event] = {}

    def listen(self) -> None:
        """Read commands until the server is gone, which ends this process."""
        for line in sys.stdin:
            command = json.loads(line)
            if "stop" in command:
                self._stops[command["stop"]].set()
                continue
            stop = threading.Event()
            self._stops = {command["id"]: stop}
            self._tasks.put((command, stop))
        os._exit(0)

    def next(self) -> tuple[dict[str, Any], threading.Event]:
        """Wait for the next job; return it with the flag that stops it."""
        return self._tasks.get()


def _teller() -> Tell:
    """Return the function that writes to the server; whatever libraries print goes to the log instead."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(what: str, **data: Any) -> None:
        with lock:
            out.write(json.dumps({"what": what, **data}) + "\n")
            out.flush()

    return tell


if __name__ == "__main__":
    sys.exit(main())
