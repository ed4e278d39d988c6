"""Milliseconds of a training step of the joint flow, by how it computes; random data, one process a way.

    python bench/train_joint.py --batch 64 --steps 20 --out ways.json

Prints a table, and writes to `--best` the trainer's options of the quickest way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

WAYS = {
    "autocast": [],
    "bfloat16": ["--pure", "1"],
    "bfloat16, compiled blocks": ["--pure", "1", "--compile", "1"],
}


def measure(batch: int, steps: int, pure: bool, compiled: bool, device_name: str) -> dict[str, float]:
    """Time steps after a warm-up; returns `ms` (median), `first_s` (of the warm-up) and `peak_gib`."""
    import tempfile

    import torch

    from synchuman.stage1.variants import MINI
    from synchuman.training.image_tokens import ImageTokens
    from synchuman.training.loop import LoopConfig, train
    from synchuman.training.train_joint import JointTraining, compile_blocks, joint_loss

    device = torch.device(device_name)
    module = JointTraining(ImageTokens(MINI.image_encoder))
    if compiled:
        compile_blocks(module)
    flow, size = MINI.joint_network.structure, MINI.joint_network.latent_size
    side = MINI.image_encoder.image_size
    data = {
        "views": torch.randn(batch, 10, 4, size, size, device=device).half(),
        "condition": torch.randn(batch, 2, 4, size, size, device=device).half(),
        "structure": torch.randn(batch, flow.channels, *(flow.resolution,) * 3, device=device).half(),
        "token": torch.randint(0, 256, (batch, side, side, 3), device=device, dtype=torch.uint8),
    }
    marks: list[float] = []

    def batches():
        while True:
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            yield data

    config = LoopConfig(max_steps=3 + steps, pure=int(pure), save_every_seconds=1e9)
    with tempfile.TemporaryDirectory() as folder:
        train(module, batches(), joint_loss, Path(folder), config, device)
    spans = sorted(b - a for a, b in pairwise(marks[3:]))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {"ms": 1000 * spans[len(spans) // 2], "first_s": marks[3] - marks[0], "peak_gib": peak}


def main() -> None:
    """Parse the command line; without `--way`, run every way in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=240, help="limit of one way")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--best", type=Path)
    options = parser.parse_args()
    if options.way:
        chosen = WAYS[options.way]
        figures = measure(
            options.batch, options.steps, "--pure" in chosen, "--compile" in chosen, options.device
        )
        print(json.dumps(figures))
        return
    table: dict[str, dict[str, float]] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--batch", str(options.batch)]
        command += ["--steps", str(options.steps), "--device", options.device]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=options.seconds, check=True
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{way}: {error}\n{str(error.stderr or '')[-1500:]}")
            continue
        table[way] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{way}: " + ", ".join(f"{key} {value:.1f}" for key, value in table[way].items()), flush=True)
        if options.out:
            options.out.write_text(json.dumps(table, indent=1))
        if options.best:
            best = min(table, key=lambda name: table[name]["ms"])
            options.best.write_text(" ".join(WAYS[best]))


if __name__ == "__main__":
    main()
