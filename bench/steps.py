"""How near few steps of Stage 1 come to many, by solver and spacing of the times.

    python bench/steps.py                       # mini, its example photos
    python bench/steps.py --guidance 2 --out runs/steps

Every way starts from the same noise. Compared with Euler's method at 50 steps and at many more: PSNR of the
decoded views, and overlap (IoU) of the occupied voxels where the variant has a structure decoder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from synchuman.nn import flow  # noqa: E402
from synchuman.photo import prepare  # noqa: E402
from synchuman.photo.framing import frame_sharp, on_white  # noqa: E402
from synchuman.pipeline import SyncHuman  # noqa: E402
from synchuman.stage1 import sampler  # noqa: E402
from synchuman.stage1.stage1 import Stage1  # noqa: E402

REFERENCES = {"of euler 50": 50, "of euler 200": 200}
SOLVERS = {"euler": flow.euler, "adams-bashforth": flow.adams_bashforth, "dpm-solver": flow.dpm_solver}


class Person:
    """One photo under one guidance, from fixed noise."""

    def __init__(self, stage1: Stage1, photo: Path, guidance: float, seed: int) -> None:
        self.stage1, self.guidance = stage1, guidance
        rgba = prepare(photo.read_bytes(), "offline", None).cutout
        self.canvas, face = (on_white(image) for image in frame_sharp(rgba, stage1.config.image_size))
        inputs = stage1.inputs(self.canvas, face, rgba)
        self.inputs = inputs if guidance == 1 else sampler.guided(inputs)
        self.velocity = stage1.bind(self.inputs)
        self.noise = stage1._noise(seed)

    def run(self, steps: int, solver: flow.Solver, rescale: float = flow.RESCALE) -> dict[str, np.ndarray]:
        """Return the decoded views and occupied voxels."""
        times = flow.schedule(steps, rescale)
        for step in sampler.sample(
            self.velocity, self.noise, self.inputs.latents, times, self.guidance, solver
        ):
            last = step
        colors, normals = self.stage1._views(last.views, self.canvas)
        found = {"latents": last.views.cpu().numpy(), "colors": colors, "normals": normals}
        logits = self.stage1._logits(last.structure)
        return found if logits is None else {**found, "logits": logits}


def compare(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Return PSNR of the views that were made (not the front: it is the photo) and IoU of the voxels."""
    error = found["latents"] - wanted["latents"]
    row = {
        "latents": float(np.linalg.norm(error) / np.linalg.norm(wanted["latents"])),
        "colors dB": _psnr(found["colors"][1:], wanted["colors"][1:]),
        "normals dB": _psnr(found["normals"], wanted["normals"]),
    }
    if "logits" in found:
        a, b = found["logits"] > 0, wanted["logits"] > 0
        row["IoU"] = float((a & b).sum() / max((a | b).sum(), 1))
    return row


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average rows."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


@torch.inference_mode()
def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variant", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--photos", nargs="*", type=Path, default=sorted((ROOT / "assets/examples").glob("*.jpg"))
    )
    parser.add_argument("--steps", nargs="*", type=int, default=[8, 12, 16, 20])
    parser.add_argument("--rescale", nargs="*", type=float, default=[flow.RESCALE])
    parser.add_argument("--solvers", nargs="*", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=43)
    parser.add_argument("--out", type=Path, help="folder of steps.json")
    chosen = parser.parse_args()
    stage1 = SyncHuman.load(chosen.variant, chosen.device).stage1
    rows: dict[str, list[dict[str, Any]]] = {}
    for photo in chosen.photos:
        person = Person(stage1, photo, chosen.guidance, chosen.seed)
        wanted = {}
        for name, steps in REFERENCES.items():
            start = time.perf_counter()
            wanted[name] = person.run(steps, flow.euler)
            print(f"{photo.name} {name}: {time.perf_counter() - start:.1f} s", flush=True)
        ways = [(s, r, n) for s in chosen.solvers for r in chosen.rescale for n in chosen.steps]
        for solver, rescale, steps in ways:
            found = person.run(steps, SOLVERS[solver], rescale)
            for name, reference in wanted.items():
                title = f"{solver}, shift {rescale:g}, {steps} steps, {name}"
                rows.setdefault(title, []).append(compare(found, reference))
    result = {title: mean(found) for title, found in rows.items()}
    for title, row in result.items():
        print(f"{title:56s} " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "steps.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
