"""Photos an hour through a Ray cluster on this machine: `python bench/ray_throughput.py --actors 1 2`."""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from synchuman.presets import preset
from synchuman.serving.cluster.actor import Model
from synchuman.serving.cluster.engine import RayEngine, cluster_engines
from synchuman.serving.jobs import PHOTO, Job, JobRequest, State

EXAMPLES = Path(__file__).resolve().parents[1] / "assets/examples"


def main() -> int:
    """Run the same photos with each number of actors; print seconds and photos an hour as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    for actors in options.actors:
        engines = list(cluster_engines("auto", actors, Model("mini", options.device), 3600))
        stop = threading.Event()
        for engine in engines:
            engine.start(stop)
        seconds = measure(engines, options.photos, options.steps)
        for engine in engines:
            engine.close()
        told = {
            "actors": actors,
            "photos": options.photos,
            "steps": options.steps,
            "seconds": round(seconds, 1),
        }
        print(json.dumps({**told, "photos_per_hour": round(3600 * options.photos / seconds, 1)}), flush=True)
    return 0


def measure(engines: list[RayEngine], photos: int, steps: int) -> float:
    """Return the seconds that all photos take; networks are loaded before."""
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(photos):
        left.put(number)
    root = Path(tempfile.mkdtemp(prefix="ray-bench-"))
    examples = sorted(EXAMPLES.glob("*.jpg"))
    request = JobRequest(settings=preset("Fast", stage1_steps=steps))
    failures: list[object] = []

    def work(engine: RayEngine) -> None:
        while True:
            try:
                number = left.get_nowait()
            except queue.Empty:
                return
            folder = root / str(number)
            folder.mkdir()
            shutil.copy(examples[number % len(examples)], folder / PHOTO)
            outcome = engine.run(Job("bench", request, 0.0), folder, threading.Event(), lambda *_: None)
            if outcome.state is not State.DONE:
                failures.append(outcome)

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    shutil.rmtree(root)
    if failures:
        raise SystemExit(f"failed: {failures[0]}")
    return took


if __name__ == "__main__":
    sys.exit(main())
