"""Measures how long a variant takes to load, and how much memory of the host it needs at its peak.

    python scripts/measure_loading.py FOLDER [--device cuda] [--dtype float16] [--placement resident]

Read the files once before (or load twice), so that it is not the disk that is measured. On the CPU, weights
are mapped from the files, so every one of them is read through afterwards: only then have they arrived.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from synchuman.pipeline import SyncHuman
from synchuman.runlog import peak_memory


def main() -> int:
    """Load, measure, print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--placement", default="resident")
    options = parser.parse_args()
    files = sum(path.stat().st_size for path in options.folder.rglob("*.safetensors"))
    start = time.perf_counter()
    pipeline = SyncHuman.load(str(options.folder), options.device, options.dtype, options.placement)
    loaded = time.perf_counter()
    modules = [*pipeline.stage1.networks.modules().values()]
    if pipeline.stage2 is not None:
        modules += pipeline.stage2.networks.modules().values()
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    for tensor in tensors:
        tensor.double().sum() if tensor.numel() < 1 << 20 else tensor.max()
    measured = {
        "device": str(pipeline.device),
        "seconds_to_load": round(loaded - start, 2),
        "seconds_to_load_and_read": round(time.perf_counter() - start, 2),
        "bytes_of_files": files,
        "bytes_of_weights": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "peak_host_memory": peak_memory(),
        "peak_over_files": round(peak_memory() / files, 3),
    }
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
