"""Checks a variant on this machine: against figures of the published code, against itself, and on a photo."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synchuman.events import DeviceMemoryError, Progress
from synchuman.loading import load_variant
from synchuman.placement import choose_device, choose_dtype
from synchuman.residency import free_memory
from synchuman.selfcheck_networks import network_runs
from synchuman.selfcheck_photo import check_photo
from synchuman.selfcheck_reference import check_reference, exact_float32
from synchuman.weights.home import home
from synchuman.weights.variants import find_variant, pull_official

FIGURES_FILE = "selfcheck.json"
# Largest error of a whole network in a number type, relative to itself in float32 (L2).
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2e-2, torch.bfloat16: 8e-2}
# In float32 between runs of the same weights, also on other machines, whose kernels round differently.
REPEAT_TOLERANCE = 1e-3
KEPT = 16  # values of an output that are recorded

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed (None: it could not be made), what was measured and expected."""

    check: str
    passed: bool | None
    says: str


@dataclass(frozen=True)
class SelfCheck:
    """All findings."""

    variant: str
    device: str
    dtype: str
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed and something was checked."""
        made = [finding.passed for finding in self.findings if finding.passed is not None]
        return bool(made) and all(made)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "passed": self.passed}

    def lines(self) -> list[str]:
        """Return it for people."""
        words = {True: "ok  ", False: "BAD ", None: "skip"}
        lines = [f"{words[f.passed]}  {f.check}: {f.says}" for f in self.findings]
        verdict = "passed" if self.passed else "FAILED"
        return [*lines, f"{self.variant} on {self.device} in {self.dtype}: {verdict} ({self.seconds:.0f} s)"]


def check_variant(
    variant: str,
    device: str = "auto",
    dtype: str = "auto",
    photo: bool = True,
    report: Report = lambda event: None,
) -> SelfCheck:
    """Check a variant.

    Args:
        variant: A name or a folder; "official" is downloaded when it is not there.
        device: See `SyncHuman.load`.
        dtype: Of the networks.
        photo: Whether to run a photo that ships with the app, too.
        report: Told how it goes.

    Raises:
        FileNotFoundError: There is no such variant, or one of its files is missing.
        ValueError: A file is damaged, or a name unknown.
    """
    began = time.perf_counter()
    on = choose_device(device)
    number = choose_dtype(dtype, on)
    folder = find_variant(variant) or pull_official()
    findings: list[Finding] = []
    if (folder / "variant.json").is_file():
        findings.append(Finding("reference", None, "only the published networks have figures of other code"))
    else:
        report(Progress("reference", 0, 1))
        findings += [Finding(*found) for found in check_reference(on, number)]
        report(Progress("reference", 1, 1))
    findings += check_networks(folder, on, number, report)
    if photo:
        findings += _photo(variant, str(on), dtype, report)
    seconds = time.perf_counter() - began
    return SelfCheck(variant, str(on), str(number).removeprefix("torch."), seconds, tuple(findings))


def check_networks(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    report: Report = lambda event: None,
    only: tuple[str, ...] | None = None,
) -> list[Finding]:
    """Run networks alone on a fixed input: finite, like themselves in float32, and as recorded before.

    Args:
        folder: Of the variant.
        device: Where.
        dtype: Compared with float32.
        report: Told how it goes.
        only: Names of the networks; None for all.
    """
    runs = {name: run for name, run in network_runs(folder).items() if only is None or name in only}
    recorded, figures, findings = _read_figures(), {}, []
    for index, (name, run) in enumerate(runs.items()):
        report(Progress("networks", index, len(runs)))
        try:
            with exact_float32(), torch.inference_mode():
                exact = run(device, torch.float32)
                got = exact if dtype is torch.float32 else run(device, dtype)
        except torch.OutOfMemoryError as error:
            findings.append(
                Finding(name, None, f"too little memory in float32 ({str(error).split('. ')[0]})")
            )
            free_memory(device)
            continue
        if not bool(torch.isfinite(got).all()):
            findings.append(Finding(name, False, f"gives infinities or NaN in {dtype}"))
            continue
        error_ = relative_error(got, exact)
        kept = recorded.get(folder.as_posix(), {}).get(name)
        figures[name] = _figures(exact)
        size = float(exact.square().mean().sqrt())
        says = f"{error_:.1e} from float32 (at most {TOLERANCES[dtype]:.0e}), rms {size:.4g}"
        passed = error_ <= TOLERANCES[dtype]
        if kept is None:
            says += "; recorded for the next time"
        else:
            drift = relative_error(torch.tensor(figures[name]), torch.tensor(kept))
            passed = passed and drift <= REPEAT_TOLERANCE
            says += f"; {drift:.1e} from what was recorded"
            figures[name] = kept
        findings.append(Finding(name, passed, says))
        free_memory(device)
    report(Progress("networks", len(runs), len(runs)))
    _write_figures({**recorded, folder.as_posix(): {**recorded.get(folder.as_posix(), {}), **figures}})
    return findings


def relative_error(got: Tensor, exact: Tensor) -> float:
    """Return the L2 norm of the difference over that of `exact`."""
    exact = exact.double().cpu()
    norm = float(exact.norm())
    return float((got.double().cpu() - exact).norm()) / norm if norm > 0 else math.inf


def _photo(variant: str, device: str, dtype: str, report: Report) -> list[Finding]:
    try:
        loaded = load_variant(variant, device, dtype, report=report)
        with tempfile.TemporaryDirectory(prefix="selfcheck-") as work:
            return [Finding(*found) for found in check_photo(loaded, variant, Path(work), report)]
    except DeviceMemoryError as error:
        return [Finding("photo", False, str(error))]


def _figures(output: Tensor) -> list[float]:
    flat = output.float().flatten().cpu()
    return [float(value) for value in flat[:: max(len(flat) // KEPT, 1)][:KEPT]]


def _read_figures() -> dict[str, Any]:
    path = home() / FIGURES_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_figures(figures: dict[str, Any]) -> None:
    path = home() / FIGURES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
