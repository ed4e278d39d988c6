"""The published sizes with random weights, measured in one run: parity, times, memory.

    python bench/official.py --out runs/official                 # all parts, the most telling ones first
    python bench/official.py --parts whole,step --out runs/o     # some of them
    python bench/official.py --size tiny --device cpu            # that the bench itself works

Prints tables; with --out also writes official.json, after every row, and profile.txt. A part that fails shows
why, there too, and the next one goes on: in a new process where the failure cost the device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import published  # first: makes the packages of this repository and of its tests importable
import torch

import memory  # isort: skip
import parity  # isort: skip
import profiling  # isort: skip
import speed  # isort: skip
from timing import GIB, free, synchronize  # isort: skip

from synchuman.nn.sparse_tensor import SparseTensor  # isort: skip

# What the published code takes on an H100 (docs/performance.md), and what is wanted here.
TARGETS = {
    "ms of a Stage 1 step": "325, wanted 120",
    "Stage 1, 50 steps": "16.7 s, wanted 6.5",
    "Stage 2 flow, 25 steps": "4.96 s, wanted 1",
    "photo to GLB": "wanted 10 s",
    "peak memory, resident and staged": "41.5 GiB, wanted 12 and 7",
}
Row = dict[str, float]
RESULTS = "official.json"


class Bench:
    """Builds what the parts need when they first need it, and keeps what they found."""

    def __init__(self, size: str, device: torch.device, dtype: torch.dtype, out: Path | None) -> None:
        self.size, self.device, self.dtype, self.out = published.size(size), device, dtype, out
        self.full = size == "published"
        self.results: dict[str, Any] = {"environment": self.environment()}
        self._stages: tuple[published.PersonStage1, published.PersonStage2] | None = None

    def environment(self) -> dict[str, Any]:
        """What it ran on."""
        found: dict[str, Any] = {
            "torch": torch.__version__, "python": platform.python_version(), "dtype": str(self.dtype)
        }  # fmt: skip
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            found |= {
                "gpu": properties.name,
                "memory GiB": round(properties.total_memory / GIB, 1),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
            }
        return found

    def stages(self) -> tuple[published.PersonStage1, published.PersonStage2]:
        """Both stages in half precision."""
        if self._stages is None:
            first, second = published.networks(self.size, self.device)
            stage1 = published.PersonStage1(first, self.size.stage1, self.device, self.dtype)
            encoder = stage1.networks.image_encoder
            stage2 = published.PersonStage2(second, self.size.stage2, encoder, self.device, self.dtype)
            self._stages = stage1, stage2
            free(self.device)
        return self._stages

    def weights(self) -> float:
        """GiB of all weights as they run."""
        stage1, stage2 = self.stages()
        networks = [*stage1.networks.modules().values(), *stage2.networks.modules().values()]
        return sum(p.numel() * p.element_size() for module in networks for p in module.parameters()) / GIB

    def whole(self) -> Iterator[tuple[str, Row]]:
        """Photo to GLB."""
        for turn in ("first run", "second run"):
            yield from speed.whole_run(*self.stages(), speed.settings_of(self.size), turn)

    def memory(self) -> Iterator[tuple[str, Row]]:
        """Peak memory of a short run, resident and staged, against what the placement assumes."""
        yield "weights", {"GiB": self.weights()}
        for way in ("resident", "staged"):
            stages = self.stages()
            if way == "staged":
                stages = memory.staged(*stages)
                self._stages = None
                free(self.device)
            for name, row in speed.whole_run(*stages, memory.short(self.size), way):
                yield name, row
                if "allocated" in row and way == "resident":
                    yield "beside the weights", memory.beside(row, self.size, self.dtype)

    def step(self) -> Iterator[tuple[str, Row]]:
        """A Stage 1 step."""
        yield from speed.stage1_step(self.stages()[0], self.size)

    def equality(self) -> Iterator[tuple[str, Row]]:
        """What runs against the plain operations it stands for."""
        stage1, stage2 = self.stages()
        yield from speed.equality(stage1, stage2, self.size)

    def stage1(self) -> Iterator[tuple[str, Row]]:
        """Stage 1 and its parts."""
        yield from speed.stage1_parts(self.stages()[0], self.size)

    def stage2(self) -> Iterator[tuple[str, Row]]:
        """Stage 2 and its parts."""
        yield from speed.stage2_parts(self.stages()[1], self.size)

    def surface(self) -> Iterator[tuple[str, Row]]:
        """FlexiCubes, surface, texture."""
        yield from speed.surface(self.device, speed.settings_of(self.size), 256 if self.full else 128)

    def attention(self) -> Iterator[tuple[str, Row]]:
        """Attention backends by shape."""
        yield from speed.attention(self.device, self.dtype, self.size.repeats)

    @torch.no_grad()
    def profile(self) -> Iterator[tuple[str, Row]]:
        """Where a step of each stage goes."""
        stage1, stage2 = self.stages()
        bench = speed.StepBench(stage1, self.size)
        velocity, joint = stage1.bind(bench.inputs), stage1.networks.joint_network

        def step() -> None:
            velocity(bench.sample, bench.time, bench.structure)

        flow, occupied = stage2.networks.slat_flow, published.voxels(published.VOXELS, self.device)
        state = published.draw(len(occupied), flow.config.channels, device=self.device)
        tokens = published.draw(1, 1374, flow.config.condition_width, device=self.device)
        projected, when = flow.project(tokens), torch.tensor([700.0], device=self.device)

        def flow_step() -> None:
            flow(SparseTensor(state, occupied), when, projected)

        text = []
        for name, network, call in (("Stage 1 step", joint, step), ("Stage 2 flow pass", flow, flow_step)):
            for part, took in profiling.time_parts(network, call, self.device).items():
                yield f"{name}: {part}", {"ms": took}
            recorded = profiling.record(call, self.device)
            text += [name, profiling.kernels(recorded, self.device)]
            if network is joint:
                yield from self._reached(recorded)
        if self.out is not None:
            (self.out / "profile.txt").write_text("\n".join(text) + "\n")
        else:
            print("\n".join(text))

    def _reached(self, recorded: Any) -> Iterator[tuple[str, Row]]:
        """Floating-point operations of a Stage 1 step by kind, and how many a second its kernels did."""
        config = self.size.stage1
        tokens = (config.image_encoder.image_size // config.image_encoder.patch) ** 2
        counts = profiling.step_operations(
            config.joint_network, config.prompt_length, tokens + 1 + config.image_encoder.registers
        )
        spent = profiling.milliseconds_by_kind(recorded)
        for kind in (*counts, "small kernels"):
            row = {"TFLOP": counts[kind]} if kind in counts else {}
            if spent.get(kind):
                row["ms"] = spent[kind]
                if kind in counts:
                    row["TFLOP/s"] = 1000 * counts[kind] / spent[kind]
            yield f"Stage 1 step, operations: {kind}", row

    @torch.no_grad()
    def goldens(self) -> Iterator[tuple[str, Row]]:
        """Networks in float32 against the reference."""
        yield from self._goldens(parity.CASES)

    @torch.no_grad()
    def full_golden(self) -> Iterator[tuple[str, Row]]:
        """The joint network at its published width in float32 against the reference; 16 GiB on the host."""
        yield from self._goldens(parity.FULL_CASES)

    def _goldens(self, cases: dict[str, Any]) -> Iterator[tuple[str, Row]]:
        for name, (tolerance, case) in cases.items():
            error = self.guarded(lambda case=case: max(case(self.device).values()), name)
            if error is not None:
                yield name, {"largest error": error, "tolerance": tolerance, "passed": error <= tolerance}
            free(self.device)

    @torch.no_grad()
    def precision(self) -> Iterator[tuple[str, Row]]:
        """Half precision against float32 with the same weights."""
        self._stages = None
        free(self.device)
        first, second = published.networks(self.size, self.device)
        cases = parity.precision_cases(first, self.size.stage1, second, self.size.stage2, self.device)
        for name, case in cases.items():
            for dtype in (torch.float16, torch.bfloat16):
                title = f"{name}, {str(dtype).removeprefix('torch.')}"
                found = self.guarded(lambda case=case, dtype=dtype: parity.precision(case, dtype), title)
                if found is not None:
                    yield title, found
                free(self.device)

    def run(self, parts: list[str]) -> None:
        """Run parts by name."""
        print(json.dumps(self.results["environment"]), flush=True)
        for index, part in enumerate(parts):
            began = time.perf_counter()
            rows = self.results.setdefault(part, {})
            print(f"\n== {part}", flush=True)

            def work(part: str = part, rows: dict[str, Row] = rows) -> None:
                for name, row in getattr(self, part)():
                    rows[name] = row
                    print(f"{name:66s} " + "  ".join(f"{k} {show(v)}" for k, v in row.items()), flush=True)
                    self.write()

            self.guarded(work, part)
            if self.lost():
                go_on_afresh(parts[index + 1 :])
            free(self.device)
            print(f"({time.perf_counter() - began:.0f} s)", flush=True)
            self.results.setdefault("seconds", {})[part] = round(time.perf_counter() - began, 1)
            self.write()

    def guarded(self, work: Callable[[], Any], name: str) -> Any:
        """Return what `work` gave; None after showing and keeping why it failed."""
        try:
            return work()
        except Exception:
            why = traceback.format_exc()
            print(why, flush=True)
            self.results.setdefault("failed", {})[name] = why
            self.write()
        return None

    def lost(self) -> bool:
        """Tell whether the device answers no more: after a bad access it fails whatever is asked of it."""
        try:
            synchronize(self.device)
        except Exception:
            return True
        return False

    def write(self) -> None:
        """Keep what was found so far."""
        if self.out is not None:
            (self.out / RESULTS).write_text(json.dumps(self.results, indent=1) + "\n")


def go_on_afresh(parts: list[str]) -> None:
    """Replace this process by one that runs the rest of the parts."""
    print("The device is lost to this process.", flush=True)
    if not parts:
        sys.exit(1)
    given = [argument for argument in sys.argv[1:] if argument != "--go-on"]
    os.execv(sys.executable, [sys.executable, __file__, *given, "--go-on", "--parts", ",".join(parts)])


def show(value: float | bool) -> str:
    """A number as short as it is readable."""
    return str(value) if isinstance(value, bool) else f"{value:.4g}"


PARTS = (
    "equality", "step", "stage1", "stage2", "surface", "whole", "memory", "goldens", "precision", "attention",
    "profile", "full_golden",
)  # fmt: skip


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=("published", "tiny"), default="published")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=None, help="folder of official.json and profile.txt")
    parser.add_argument("--go-on", action="store_true", help="add to the results that --out holds")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(
        arguments.size, torch.device(arguments.device), getattr(torch, arguments.dtype), arguments.out
    )
    if arguments.go_on and arguments.out is not None and (arguments.out / RESULTS).exists():
        bench.results = json.loads((arguments.out / RESULTS).read_text())
    for what, figures in TARGETS.items():
        print(f"reference: {what}: {figures}")
    bench.run(parts)


if __name__ == "__main__":
    main()
