"""How near few steps of Stage 1 come to many, by solver and spacing of the times.

    python bench/steps.py                       # mini, its example photos
    python bench/steps.py --guidance 2 --out runs/steps

Every way starts from the same noise and is compared with many steps of Euler's method: relative difference
(L2) of the latents, PSNR of the decoded views, and overlap (IoU) of the occupied voxels where there is a
structure decoder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from synchuman.nn import flow  # noqa: E402
from synchuman.photo import prepare  # noqa: E402
from synchuman.photo.framing import frame_sharp, on_white  # noqa: E402
from synchuman.pipeline import SyncHuman  # noqa: E402
from synchuman.stage1 import sampler  # noqa: E402
from synchuman.stage1.stage1 import Stage1  # noqa: E402


def dpm_solver() -> flow.Turn:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) on the straight path of a flow: no evaluation more.

    With noise t and signal 1 - t, half the logarithm of the signal-to-noise ratio is log((1 - t) / t). The
    first and the last step are Euler's, since there it is infinite.
    """
    before: list[tuple[Tensor, float]] = []

    def turn(state: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
        estimate, direction = state - now * velocity, velocity
        if before:
            earlier, start = before.pop()
            if start < 1 and after > 0:
                ratio = (_signal(now) - _signal(start)) / (_signal(after) - _signal(now))
                direction = velocity - (estimate - earlier) / (2 * ratio * now)
        before.append((estimate, now))
        return direction

    return turn


def _signal(time: float) -> float:
    return math.log((1 - time) / time)


SOLVERS: dict[str, flow.Solver] = {**flow.SOLVERS, "dpm-solver": dpm_solver}


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


def show(title: str, row: dict[str, float]) -> str:
    """A row of the table."""
    return f"{title:52s} " + "  ".join(f"{key} {value:.4g}" for key, value in row.items())


@torch.inference_mode()
def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variant", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--photos", nargs="*", type=Path, default=sorted((ROOT / "assets/examples").glob("*.jpg"))
    )
    parser.add_argument("--references", nargs="*", type=int, default=[50], help="Euler steps to compare with")
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
        for steps in chosen.references:
            wanted[f"of euler {steps}"] = person.run(steps, flow.euler)
        ways = [(s, r, n) for s in chosen.solvers for r in chosen.rescale for n in chosen.steps]
        for solver, rescale, steps in ways:
            found = person.run(steps, SOLVERS[solver], rescale)
            for name, reference in wanted.items():
                title = f"{solver}, shift {rescale:g}, {steps} steps, {name}"
                rows.setdefault(title, []).append(compare(found, reference))
                print(photo.stem, show(title, rows[title][-1]), flush=True)
    result = {title: mean(found) for title, found in rows.items()}
    print("\nMean over the photos")
    for title, row in result.items():
        print(show(title, row))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "steps.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
