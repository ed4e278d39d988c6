"""Carry checkpoints between machines: averaged weights as float16 and logs, in one tar cut into pieces.

    python3 scripts/pack_checkpoints.py checkpoints DIR [LEG ...]    # writes DIR/mini.tar.00, .01, ...
    cat DIR/mini.tar.* | tar x -C checkpoints                        # puts them back

A leg goes on from them with `weights.safetensors` missing: it starts from the average and warms up again.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save

PIECE = 15 << 20  # bytes


def pack(checkpoints: Path, out: Path, legs: list[str]) -> list[Path]:
    """Write the pieces of the named legs, or of all; returns their paths."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for average in sorted(checkpoints.glob("*/average.safetensors")):
            if legs and average.parent.name not in legs:
                continue
            halves = {k: v.to(torch.float16) for k, v in load_file(average).items()}
            data = save(halves)
            info = tarfile.TarInfo(f"{average.parent.name}/average.safetensors")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            for beside in (*average.parent.glob("*.json"), *average.parent.glob("*.jsonl")):
                tar.add(beside, f"{average.parent.name}/{beside.name}")
        if (checkpoints / "logs").is_dir():
            tar.add(checkpoints / "logs", "logs")
    out.mkdir(parents=True, exist_ok=True)
    whole = buffer.getbuffer()
    pieces = []
    for number, start in enumerate(range(0, len(whole), PIECE)):
        path = out / f"mini.tar.{number:02d}"
        path.write_bytes(whole[start : start + PIECE])
        pieces.append(path)
    return pieces


if __name__ == "__main__":
    for piece in pack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]):
        sys.stdout.write(f"{piece} {piece.stat().st_size}\n")
