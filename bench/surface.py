"""From decoded features to a GLB: seconds and memory of every step beside the published code's; exactness.

    python bench/surface.py   # 50,000 faces, texture of 2048; CPU, and CUDA when there is one
    python bench/surface.py --faces 100000 --texture-size 4096 --repeat 4

The way is gone `--repeat` times: the first turn, which also loads kernels, is told apart, and of the others
the fastest is shown and held to the bounds.

The input is what a perfect decoder would give for the tests' person at 256³, wrinkled, with five 768 px views
and a photo of 1536. It is made in a process of its own, so that memory is that of the way alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from synchuman.surface.mesh import DenseMesh

ROOT = Path(__file__).resolve().parents[1]
RESOLUTION = 256
VIEW_SIDE, PHOTO_SIDE = 768, 1536
MM = 1700.0  # per unit of the cube, the person being 1.7 m tall
MIB = 2**20
FOLD = 0.0006  # height of the wrinkles, of the cube: 1 mm
# Bounds on 2 CPU cores and on an H100, at 50,000 faces and a texture of 2048.
MOST_SECONDS, MOST_SECONDS_GPU, MOST_MEMORY = 8.0, 3.0, 1536 * MIB
MOST_DISTANCE, MOST_ANGLE = 0.1, 2.5  # mm, degrees
# (step, what ends it as a checkpoint (stage, step), the published code's step and what that took on 2 CPU
# cores on a mesh of this size). Where the published step needs a GPU, something that does the same was timed.
STEPS: tuple[tuple[str, tuple[str, int], str, str], ...] = (
    ("grid from voxels", ("surface", 1), "FlexiCubes, dense grid", "26-56 s, 5.6-5.9 GiB"),
    ("hidden filled", ("surface", 2), "1000 views, min cut; 1-3 passes", "129 s each"),
    ("FlexiCubes", ("surface", 3), "(above)", ""),
    ("floaters, pinches", ("surface", 5), "holes filled", "0.3 s"),
    ("decimated", ("atlas", 0), "decimated (VTK)", "1.1 s"),
    ("unwrapped", ("texture", 0), "unwrapped (xatlas)", "9.5 s"),
    ("textured", ("texture", 9), "100 views rendered, 1000 Adam steps", "38 s + 216 s, texture 1024"),
    ("GLB", ("done", 0), "GLB", "0.5 s"),
)


class Meter:
    """Watches the memory of this process while steps go by."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int], float] = {}
        self.cpu: dict[tuple[str, int], float] = {}
        self.peaks: dict[tuple[str, int], int] = {}
        self._ended = threading.Event()
        self._peak = self._before = resident()
        self._began, self._worked = time.perf_counter(), time.process_time()
        threading.Thread(target=self._watch, daemon=True).start()

    def checkpoint(self, stage: str, step: int, total: int) -> None:
        """Note the end of a step."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, worked = time.perf_counter(), time.process_time()
        self.seconds[stage, step] = now - self._began
        self.cpu[stage, step] = worked - self._worked
        self.peaks[stage, step] = max(self._peak, resident())
        self._began, self._worked, self._peak = now, worked, resident()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(0.003):
            self._peak = max(self._peak, resident())


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@dataclass
class Measured:
    """One way from features to GLB.

    Attributes:
        seconds: By step.
        cpu: Seconds of all cores by step, which other load on the machine changes less.
        peaks: Resident memory in bytes by step.
        device_peak: Most memory in bytes that was taken of a GPU, 0 on the CPU.
        dense: The surface before decimation.
        vertices: [v, 3] of the closed mesh that came out.
        faces: [f, 3] of it.
        facts: What else there is to say.
    """

    seconds: dict[str, float]
    cpu: dict[str, float]
    peaks: dict[str, int]
    device_peak: int
    dense: DenseMesh
    vertices: np.ndarray
    faces: np.ndarray
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())


def make_input(path: Path) -> None:
    """Write what the decoder, the views and the photo of a wrinkled person would be."""
    sys.path.insert(0, str(ROOT / "tests"))
    import surface_person

    plain = surface_person.sdf

    def wrinkled(points: np.ndarray) -> np.ndarray:
        x, y, z = (points * (2 * np.pi / 0.035)).T
        folds = np.sin(z + 1.7 * np.sin(0.4 * x)) * np.sin(0.5 * x + 0.7 * y) + 0.4 * np.sin(2.3 * y - z)
        return plain(points) + FOLD * folds.T

    surface_person.sdf = wrinkled
    person = surface_person.make(VIEW_SIDE, PHOTO_SIDE)
    surface_person.make = lambda: person
    coords, feats = surface_person.decoded(RESOLUTION)
    arrays = {name: getattr(person, name) for name in ("colors", "normals", "photo")}
    np.savez(path, coords=coords.numpy(), feats=feats.numpy(), **arrays)


def measure(path: Path, faces: int, texture_size: int, device: str) -> Measured:
    """Go the whole way once."""
    import torch

    from synchuman.surface.build import image_sources, texture_mesh
    from synchuman.surface.fine import fine_surface
    from synchuman.surface.formats.glb import to_glb
    from synchuman.surface.mesh import is_watertight, weld

    with np.load(path) as kept:
        given = {name: kept[name] for name in kept.files}
    coords, feats = (torch.from_numpy(given[name]).to(device) for name in ("coords", "feats"))
    on_gpu = coords.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(coords.device)
    meter = Meter()
    dense = fine_surface(coords, feats, RESOLUTION, meter.checkpoint)
    sources = image_sources(given["colors"], given["normals"], given["photo"])
    mesh = texture_mesh(dense, sources, faces, texture_size, meter.checkpoint, coords.device)
    glb = to_glb(mesh)
    meter.checkpoint("done", 0, 0)
    meter.close()
    times, cpu, peaks = fold(meter)
    vertices, triangles, _ = weld(mesh.vertices, mesh.faces)
    device_peak = torch.cuda.max_memory_allocated(coords.device) if on_gpu else 0
    facts = {
        "voxels": len(coords),
        "dense faces": len(dense.faces),
        "faces": len(triangles),
        "watertight": is_watertight(triangles),
        "GLB KiB": len(glb) // 1024,
    }
    return Measured(times, cpu, peaks, device_peak, dense, vertices, triangles, facts)


def fold(meter: Meter) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Sum what checkpoints measured up to the end of each step."""
    times: dict[str, float] = {}
    cpu: dict[str, float] = {}
    peaks: dict[str, int] = {}
    entries = iter(meter.seconds)
    for name, end, _, _ in STEPS:
        times[name], cpu[name], peaks[name] = 0.0, 0.0, 0
        for key in entries:
            times[name] += meter.seconds[key]
            cpu[name] += meter.cpu[key]
            peaks[name] = max(peaks[name], meter.peaks[key])
            if key == end:
                break
    return times, cpu, peaks


def deviation(
    vertices: np.ndarray, faces: np.ndarray, dense_vertices: np.ndarray, dense_faces: np.ndarray
) -> tuple[float, float]:
    """Return mean distance in mm and mean angle in degrees of a mesh to the dense one."""
    import trimesh
    from scipy.spatial import cKDTree

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    dense = trimesh.Trimesh(dense_vertices, dense_faces, process=False)
    here, own = trimesh.sample.sample_surface(mesh, 20_000, seed=0)
    there, face = trimesh.sample.sample_surface(dense, 2_000_000, seed=1)
    _, index = cKDTree(there).query(here)
    normals = dense.face_normals[face[index]]
    distance = np.abs(((here - there[index]) * normals).sum(1)).mean()
    cosine = (normals * mesh.face_normals[own]).sum(1)
    return float(distance * MM), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def show(first: Measured, measured: Measured, device: str, bounded: bool) -> bool:
    """Print a table of a warm turn beside the first one; return whether all bounds are kept."""
    print(f"\n{device}: {', '.join(f'{name} {value}' for name, value in measured.facts.items())}")
    print(f"{'step':<18}{'first s':>8}{'warm s':>7}{'CPU s':>7}{'RSS MiB':>9}   {'published code':<36}took")
    for name, _, theirs, took in STEPS:
        seconds, cpu = measured.seconds[name], measured.cpu[name]
        own = f"{first.seconds[name]:>8.2f}{seconds:>7.2f}{cpu:>7.2f}{measured.peaks[name] / MIB:>9.0f}"
        print(f"{name:<18}{own}   {theirs:<36}{took}")
    total, worked = measured.total, sum(measured.cpu.values())
    peak = max(*first.peaks.values(), *measured.peaks.values())
    own = f"{first.total:>8.2f}{total:>7.2f}{worked:>7.2f}{peak / MIB:>9.0f}"
    print(f"{'total':<18}{own}   {'':<36}6.5-11 min")
    if measured.device_peak:
        print(f"GPU memory: {measured.device_peak / MIB:.0f} MiB")
    distance, angle = deviation(
        measured.vertices, measured.faces, measured.dense.vertices, measured.dense.faces
    )
    print(f"mean distance {distance:.3f} mm, normal deviation {angle:.2f} degrees")
    if not bounded:
        return True
    most = MOST_SECONDS_GPU if device.startswith("cuda") else MOST_SECONDS
    kept = {
        f"at most {most:g} s": total <= most,
        f"at most {MOST_MEMORY // MIB} MiB": peak <= MOST_MEMORY or device.startswith("cuda"),
        f"at most {MOST_DISTANCE} mm": distance <= MOST_DISTANCE,
        f"at most {MOST_ANGLE} degrees": angle <= MOST_ANGLE,
        "watertight": bool(measured.facts["watertight"]),
    }
    for bound, good in kept.items():
        print(f"  {'kept  ' if good else 'BROKEN'}  {bound}")
    return all(kept.values())


def main() -> int:
    """Measure on every device; 1 when a bound is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--texture-size", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=2, help="turns, at least 2")
    parser.add_argument("--device", help="cpu or cuda (default: all there are)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeat < 2:
        parser.error("a warm turn needs --repeat 2 at least")
    sys.path.insert(0, str(ROOT))
    if options.make:
        make_input(options.make)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.npz"
        subprocess.run([sys.executable, __file__, "--make", path], check=True)
        import torch

        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        good = True
        for device in [options.device] if options.device else devices:
            runs = [measure(path, options.faces, options.texture_size, device) for _ in range(options.repeat)]
            best = min(runs[1:], key=lambda run: run.total)
            good &= show(runs[0], best, device, (options.faces, options.texture_size) == (50_000, 2048))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
