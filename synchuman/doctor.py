"""Examines a machine: what it has, which variants are there, what will run and why something will not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synchuman.needs import GIB, OFFICIAL_DOWNLOAD, OFFICIAL_HOST, OFFICIAL_RESIDENT, OFFICIAL_STAGED

# Older NVIDIA cards lack bfloat16 or fast float16.
BFLOAT16_FROM, FLOAT16_FROM = (8, 0), (7, 0)
PACKAGES = {
    "xformers": "not needed: torch's own attention is used",
    "anny": "training on synthetic people: pip install 'synchuman-studio[train]'",
    "hf_xet": "quicker downloads from the hub: pip install hf_xet",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU: bytes of memory, and which number types it computes in."""

    name: str
    capability: str
    total: int
    free: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether something will run, and how or why not."""

    what: str
    runs: bool
    why: str


@dataclass(frozen=True)
class Examination:
    """What was found; all sizes in bytes."""

    system: dict[str, Any]
    torch: dict[str, Any]
    gpus: tuple[Gpu, ...]
    variants: dict[str, str | None]
    packages: dict[str, str | None]
    disk: dict[str, int]
    verdicts: tuple[Verdict, ...]
    problems: tuple[str, ...] = field(default=())
    hints: tuple[str, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether at least the weights that ship will run, and nothing is broken."""
        return not self.problems and any(verdict.runs for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "healthy": self.healthy}

    def lines(self) -> list[str]:
        """Return it for people."""
        system, torch = self.system, self.torch
        lines = [
            f"System    {system['platform']}, Python {system['python']}, {system['cpus']} CPUs, "
            f"{_gib(system['memory_free'])} of {_gib(system['memory'])} memory free",
            f"torch     {torch['version']}, built for {torch['built_for']}"
            + (f", driver {torch['driver']}" if torch["driver"] else ""),
        ]
        lines += [
            f"GPU {index}     {gpu.name} (compute capability {gpu.capability}), {_gib(gpu.free)} of "
            f"{_gib(gpu.total)} free; {', '.join(gpu.dtypes)}"
            for index, gpu in enumerate(self.gpus)
        ] or ["GPU       none that torch can use"]
        lines += [f"Disk      {_gib(free)} free at {place}" for place, free in self.disk.items()]
        lines += [f"Weights   {name}: {path or 'not here'}" for name, path in self.variants.items()]
        lines += [
            f"Package   {name} {version or f'is missing; {PACKAGES[name]}'}"
            for name, version in self.packages.items()
        ]
        lines += [f"{'RUNS  ' if v.runs else 'NOT   '}    {v.what}: {v.why}" for v in self.verdicts]
        lines += [f"PROBLEM   {problem}" for problem in self.problems]
        lines += [f"HINT      {hint}" for hint in self.hints]
        return lines


def examine() -> Examination:
    """Examine this machine."""
    from synchuman.weights.home import home
    from synchuman.weights.variants import OFFICIAL, official_folder, shipped

    system, torch_, gpus = _system(), _torch(), _gpus()
    official = official_folder()
    variants: dict[str, str | None] = {name: "ships with the app" for name in shipped()}
    variants[OFFICIAL] = None if official is None else str(official)
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or Path.home() / ".cache")
    disk = {str(place): _free(place) for place in dict.fromkeys((cache, home()))}
    problems = _problems(torch_, gpus)
    verdicts = [Verdict(name, True, _where_mini(gpus)) for name in shipped()]
    verdicts += [official_verdict(official is not None, gpus, system, min(disk.values()))]
    packages = {name: _version(name) for name in PACKAGES}
    about = system, torch_, gpus, variants, packages, disk
    return Examination(*about, tuple(verdicts), problems, _hints(gpus))


def official_verdict(here: bool, gpus: tuple[Gpu, ...], system: dict[str, Any], disk: int) -> Verdict:
    """Tell whether the published weights will run, and how.

    Args:
        here: Whether they were downloaded.
        gpus: The best one counts.
        system: `memory_free` in bytes.
        disk: Free bytes where they go.
    """
    name = "official"
    first = "" if here else "after `python -m synchuman weights pull` "
    if not here and disk < OFFICIAL_DOWNLOAD:
        return Verdict(
            name, False, f"the download needs {_gib(OFFICIAL_DOWNLOAD)} of the disk, {_gib(disk)} are free"
        )
    if gpus:
        best = max(gpus, key=lambda gpu: gpu.free)
        if best.free >= OFFICIAL_RESIDENT:
            return Verdict(name, True, f"{first}on {best.name}, resident")
        if best.free >= OFFICIAL_STAGED:
            why = f"{_gib(best.free)} are free, {_gib(OFFICIAL_RESIDENT)} would be needed at once"
            return Verdict(name, True, f"{first}on {best.name}, staged: {why}")
        return Verdict(
            name, False,
            f"{best.name} has {_gib(best.free)} free, {_gib(OFFICIAL_STAGED)} are needed even staged; end "
            "other programs that use it, or use --device cpu (hours)",
        )  # fmt: skip
    if system["memory_free"] < 2 * OFFICIAL_HOST:
        return Verdict(
            name, False,
            f"there is no GPU, and on the CPU it needs about {_gib(2 * OFFICIAL_HOST)} of memory; "
            f"{_gib(system['memory_free'])} are free",
        )  # fmt: skip
    return Verdict(
        name, True, f"{first}on the CPU, which takes hours for a photo; a GPU is what it is made for"
    )


def _system() -> dict[str, Any]:
    total, free = _memory()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count() or 1,
        "memory": total,
        "memory_free": free,
    }


def _memory() -> tuple[int, int]:
    """Return all and available bytes of memory; zeros where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return values["MemTotal"], values["MemAvailable"]


def _torch() -> dict[str, Any]:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    return {
        "version": torch.__version__,
        "built_for": built,
        "cuda_available": torch.cuda.is_available(),
        "driver": _driver(),
        "matrix_units_bfloat16": bool(torch.cpu.get_capabilities().get("amx_bf16", False)),
    }


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; None when there is none."""
    path = Path("/proc/driver/nvidia/version")
    if not path.is_file():
        return None
    words = path.read_text().split("\n")[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def _gpus() -> tuple[Gpu, ...]:
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = (properties.major, properties.minor)
        dtypes = ["float32"]
        dtypes += ["float16"] if capability >= FLOAT16_FROM else []
        dtypes += ["bfloat16"] if capability >= BFLOAT16_FROM else []
        found.append(Gpu(properties.name, ".".join(map(str, capability)), total, free, tuple(dtypes)))
    return tuple(found)


def _problems(torch_: dict[str, Any], gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """Return what is broken, with the cure."""
    problems = []
    if torch_["driver"] and not gpus:
        cure = (
            "this torch was built for the CPU: install one for CUDA (https://pytorch.org/get-started)"
            if torch_["built_for"] == "the CPU"
            else f"torch was built for {torch_['built_for']}: update the driver, check CUDA_VISIBLE_DEVICES"
        )
        problems.append(f"There is an NVIDIA driver ({torch_['driver']}), but torch sees no GPU; {cure}.")
    return tuple(problems)


def _hints(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """Return what works, but could work better."""
    if not gpus or not (lacking := _lacking_for_kernels()):
        return ()
    return (
        f"The GPU will be slower than it could be: for the kernels that Triton builds, {lacking} missing "
        "(docs/troubleshooting.md).",
    )


def _lacking_for_kernels() -> str:
    """Return what Triton lacks to build kernels; empty where nothing is missing."""
    import sysconfig

    if importlib.util.find_spec("triton") is None:
        return "Triton itself is"
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        return "a C compiler is"
    return "" if (Path(sysconfig.get_path("include")) / "Python.h").is_file() else "Python's headers are"


def _where_mini(gpus: tuple[Gpu, ...]) -> str:
    return f"on {gpus[0].name}" if gpus else "on the CPU, in about half a minute on two cores"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name) if importlib.util.find_spec(name) else None
    except importlib.metadata.PackageNotFoundError:
        return None


def _free(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
