"""Downloads the published weights from the Hugging Face hub, and remembers what came.

huggingface_hub does the transfer: it resumes broken ones, shares its cache with other programs, and reads
HF_TOKEN, HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_OFFLINE. No hash of the published files is known to us
beforehand: revision and sha256 are recorded at the first download and hold from then on.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synchuman.weights.home import read_lock, sha256, write_lock

# Called with the file, and the bytes done and wanted of all files.
Report = Callable[[str, int, int], None]
# Packages whose errors mean that a transfer failed; which are used depends on the client's version.
TRANSPORTS = ("huggingface_hub", "httpx", "httpx2", "requests", "urllib3", "hf_xet")
SPARE = 2**30  # bytes of the disk that a download leaves free


class HubError(OSError):
    """The hub cannot be reached or will not give the files; the message says what to do."""


class DiskSpaceError(HubError):
    """The disk is too small for the download; the message has the numbers."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, and which of its files are wanted (patterns of fnmatch)."""

    name: str
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class RemoteFile:
    """A file that the hub offers; its sha256 is None where the hub only tells it of large files."""

    name: str
    size: int
    sha256: str | None


SYNCHUMAN = Repository("xishushu/SyncHuman", ("ckpts/*",))
DINOV2 = Repository("facebook/dinov2-with-registers-large", ("config.json", "model.safetensors"))
REPOSITORIES = (SYNCHUMAN, DINOV2)


def pulled(repository: Repository) -> Path | None:
    """Return the folder of a repository's files in the hub's cache; None when they were not pulled whole."""
    entry = read_lock().get(repository.name)
    return None if entry is None else _cached(repository, entry)


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def pull(
    repositories: tuple[Repository, ...] = REPOSITORIES,
    report: Report = lambda name, done, total: None,
    update: bool = False,
) -> list[Path]:
    """Download what is missing, check it, and record it.

    Args:
        repositories: Which.
        report: Told how it goes; what it raises stops the download, which goes on from there next time.
        update: Take the newest revision instead of the recorded one.

    Returns:
        The folder of every repository.

    Raises:
        HubError: The hub is out of reach or refuses; offline mode with files missing.
        DiskSpaceError: The disk is too small.
        WeightsError: A file is not what was recorded.
    """
    if offline():
        return [_require_cached(repository) for repository in repositories]
    lock = read_lock()
    plans = []
    for repository in repositories:
        known = None if update else lock.get(repository.name, {}).get("revision")
        plans.append((repository, *_ask(repository, known)))
    total = sum(file.size for _, _, files in plans for file in files)
    _check_disk(sum(_missing(repository, revision, files) for repository, revision, files in plans))
    folders, done = [], 0
    for repository, revision, files in plans:
        recorded = {} if update else lock.get(repository.name, {}).get("files", {})
        entry: dict[str, Any] = {"revision": revision, "files": {}}
        for file in files:
            path = _download(repository, revision, file, _counter(report, file.name, done, total))
            entry["files"][file.name] = _verified(path, file, recorded.get(file.name))
            done += file.size
            report(file.name, done, total)
        lock[repository.name] = entry
        # After every repository: what came whole need not come again.
        write_lock(lock)
        folder = _cached(repository, entry)
        assert folder is not None, "the files were just downloaded"
        folders.append(folder)
    return folders


def _ask(repository: Repository, revision: str | None) -> tuple[str, list[RemoteFile]]:
    """Ask the hub for the revision and the wanted files."""
    from huggingface_hub import HfApi

    with _Told(repository):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        info = api.model_info(repository.name, revision=revision, files_metadata=True)
        files = [
            RemoteFile(item.rfilename, item.size or 0, None if item.lfs is None else item.lfs.sha256)
            for item in info.siblings or ()
            if _wanted(repository, item.rfilename)
        ]
        if info.sha is None or not files:
            raise HubError(f"The hub has no weights in {repository.name}; has it moved?")
        return info.sha, files


def _wanted(repository: Repository, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in repository.wanted)


def _download(repository: Repository, revision: str, file: RemoteFile, counter: Any) -> Path:
    from huggingface_hub import hf_hub_download

    with _Told(repository):
        path = hf_hub_download(
            repository.name,
            file.name,
            revision=revision,
            endpoint=os.environ.get("HF_ENDPOINT"),
            tqdm_class=counter,
        )
    return Path(path)


def _verified(path: Path, file: RemoteFile, recorded: dict[str, Any] | None) -> dict[str, Any]:
    """Return what to record of a file.

    Raises:
        WeightsError: It is not what the hub or the record says.
    """
    from synchuman.weights.checkpoint import WeightsError

    got = {"size": path.stat().st_size, "sha256": sha256(path)}
    promised = file.sha256 if recorded is None else recorded["sha256"]
    if promised is not None and got["sha256"] != promised:
        whose = "the hub promises" if recorded is None else "was recorded at the first download"
        raise WeightsError(
            f"{path} has sha256 {got['sha256']}, but {promised} {whose}. Delete it and run "
            "`python -m synchuman weights pull`; with --update if the authors changed it on purpose."
        )
    return got


def _cached(repository: Repository, entry: dict[str, Any]) -> Path | None:
    """Return the folder in the hub's cache if all recorded files are there."""
    from huggingface_hub import try_to_load_from_cache

    folder: Path | None = None
    for name in entry["files"]:
        found = try_to_load_from_cache(repository.name, name, revision=entry["revision"])
        if not isinstance(found, str):
            return None
        folder = Path(found).parents[name.count("/")]
    return folder


def _require_cached(repository: Repository) -> Path:
    folder = pulled(repository)
    if folder is None:
        raise HubError(
            f"{repository.name} is not (or not wholly) on this machine, and HF_HUB_OFFLINE forbids to "
            "fetch it. Unset it, or copy the hub's cache here and name it with HF_HOME."
        )
    return folder


def _missing(repository: Repository, revision: str, files: list[RemoteFile]) -> int:
    """Return the bytes that are still to come; what a broken transfer left counts as missing."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        file.size
        for file in files
        if not isinstance(try_to_load_from_cache(repository.name, file.name, revision=revision), str)
    )


def _check_disk(needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and free < needed + SPARE:
        raise DiskSpaceError(
            f"The weights need {needed / 1e9:.1f} GB more and {SPARE / 1e9:.1f} GB to spare, but "
            f"{HF_HUB_CACHE} has {free / 1e9:.1f} GB free. Free some, or name another disk with HF_HOME."
        )


class _Told:
    """Turns the hub's many errors into one that says what to do."""

    def __init__(self, repository: Repository) -> None:
        self._name = repository.name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub import errors

        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        if isinstance(error, errors.GatedRepoError):
            text = f"{self._name} asks for consent: accept it at {endpoint}/{self._name}, then set HF_TOKEN."
        elif isinstance(error, errors.RevisionNotFoundError):
            text = f"{self._name} lacks the recorded revision. Take the newest: `weights pull --update`."
        elif isinstance(error, errors.RepositoryNotFoundError):
            text = f"{endpoint} does not show {self._name}. If it is private now, set HF_TOKEN."
        elif isinstance(error, ConnectionError | TimeoutError) or _package(error) in TRANSPORTS:
            text = (
                f"{self._name} cannot be fetched from {endpoint} ({error}). Check the network, or name a "
                "mirror with HF_ENDPOINT. What has come is kept: run the same again to go on."
            )
        else:
            return
        raise HubError(text) from None


def _package(error: BaseException | None) -> str:
    return type(error).__module__.split(".")[0]


def _counter(report: Report, name: str, before: int, total: int) -> type:
    """Return a progress bar that shows nothing and reports instead."""
    from tqdm import tqdm

    class Counter(tqdm):
        """Counts the bytes of one file."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._done = int(options.get("initial") or 0)
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            """Report more bytes."""
            self._done += int(n or 0)
            report(name, before + self._done, total)
            return None

    return Counter
