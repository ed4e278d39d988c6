"""Checks the files of a variant, and tells where the weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synchuman.weights import hub
from synchuman.weights.checkpoint import TORCH_ENDINGS, WeightsError, check_structure, parts_of
from synchuman.weights.home import home, read_lock, sha256
from synchuman.weights.prompts import check_prompts
from synchuman.weights.published import FOLDERS, PublishedFolder
from synchuman.weights.variants import OFFICIAL, SHIPPED, find_variant, official_folder, shipped


@dataclass(frozen=True)
class CheckedFile:
    """A file of weights.

    Attributes:
        name: Its path.
        size: Bytes; 0 when it is missing.
        sha256: None when it was not asked for.
        problem: What is wrong with it and the cure; None when nothing is.
        compared: What it was compared with.
    """

    name: str
    size: int
    sha256: str | None
    problem: str | None
    compared: str

    @property
    def says(self) -> str:
        """The problem, else what was checked, for people."""
        return self.problem or f"{self.size:,} bytes, {self.compared}"


def verify(variant: str, hashes: bool = True, report: hub.Report = lambda n, d, t: None) -> list[CheckedFile]:
    """Check every file of a variant: it is there, it is whole, and it has the hash that was recorded.

    Args:
        variant: A name or a folder, as `find_variant` takes.
        hashes: Whether to compute them; else headers and sizes only.
        report: Told how it goes, in bytes.

    Raises:
        FileNotFoundError: There is no such variant, or it was not downloaded.
    """
    folder = find_variant(variant)
    if folder is None:
        lacking = hub.SYNCHUMAN if hub.pulled(hub.SYNCHUMAN) is None else hub.DINOV2
        raise FileNotFoundError(
            f"{lacking.name} is not (or not wholly) on this machine; run `python -m synchuman weights pull`."
        )
    checkpoint = PublishedFolder.find(folder)
    problems: list[CheckedFile] = []
    paths: list[Path] = []
    if checkpoint is None:
        paths = sorted(folder.glob("*.safetensors"))
    else:
        networks = [
            n for n in (*FOLDERS, "image_encoder") if checkpoint.has_stage2 or "Second" not in _where(n)
        ]
        for network in networks:
            try:
                paths += parts_of(checkpoint.weights(network).path)
                checkpoint.sizes(network)
            except (FileNotFoundError, WeightsError) as error:
                problems.append(CheckedFile(network, 0, None, str(error), ""))
        try:
            paths.append(checkpoint.prompts)
        except FileNotFoundError as error:
            problems.append(CheckedFile("view prompts", 0, None, str(error), ""))
    recorded = _recorded()
    total, done, checked = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        before = done

        def tick(count: int, name: str = path.name) -> None:
            nonlocal done
            done += count
            report(name, done, total)

        checked.append(_check(path, recorded.get(str(path.resolve())), hashes, tick))
        done = before + path.stat().st_size
    return [*problems, *checked]


def locate() -> dict[str, Any]:
    """Return the folders of all variants by name, None for what is not here, and our own home."""
    found: dict[str, Any] = {name: str(SHIPPED / name) for name in shipped()}
    official = official_folder()
    found[OFFICIAL] = None if official is None else str(official)
    for repository in hub.REPOSITORIES:
        folder = hub.pulled(repository)
        found[repository.name] = None if folder is None else str(folder)
    return {**found, "home": str(home())}


def _where(network: str) -> str:
    return FOLDERS.get(network, ("", ()))[0]


def _recorded() -> dict[str, dict[str, Any]]:
    """Return what was recorded of files at their first download, by path."""
    result: dict[str, dict[str, Any]] = {}
    for repository in hub.REPOSITORIES:
        folder, entry = hub.pulled(repository), read_lock().get(repository.name, {})
        if folder is not None:
            result |= {str((folder / name).resolve()): file for name, file in entry["files"].items()}
    return result


def _check(path: Path, recorded: dict[str, Any] | None, hashes: bool, tick: Any) -> CheckedFile:
    size = path.stat().st_size
    digest = sha256(path, tick) if hashes else None
    compared = "nothing recorded to compare with" if recorded is None else "as recorded at its download"
    problem = None
    try:
        if not path.name.endswith(TORCH_ENDINGS):
            check_structure(path)
        if path.name == "view_prompts.safetensors":
            compared = f"prompts are {_prompts(path)}"
    except WeightsError as error:
        problem = str(error)
    if problem is None and recorded is not None:
        if size != recorded["size"]:
            problem = f"has {size:,} bytes, not the {recorded['size']:,} recorded"
        elif digest is not None and digest != recorded["sha256"]:
            problem = f"has sha256 {digest}, not the recorded {recorded['sha256']}"
        if problem is not None:
            problem = f"{path} {problem}: delete it and run `python -m synchuman weights pull`."
    return CheckedFile(str(path), size, digest, problem, compared)


def _prompts(path: Path) -> str:
    from safetensors.torch import load_file

    return check_prompts(load_file(path)["view_prompts"])
