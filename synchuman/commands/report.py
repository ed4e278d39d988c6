"""What a batch has done and what is missing: one entry per photo in report.json, whole at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT = "report.json"
FORMAT = 1
KINDS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif")


def find_photos(places: Sequence[Path], recursive: bool = False) -> dict[str, Path]:
    """Return photos by the name of the folder that each gets, sorted.

    A photo of a folder is named by its path within that folder, without its ending; with its ending where two
    would have one name.

    Raises:
        ValueError: There is none, or two would have one name.
        FileNotFoundError: A place is not there.
    """
    found: list[tuple[Path, Path]] = []
    for place in places:
        if place.is_dir():
            files = sorted(place.rglob("*") if recursive else place.iterdir())
            photos = [
                file for file in files if file.suffix.lower() in KINDS and not file.name.startswith(".")
            ]
            if not photos:
                raise ValueError(f"{place} has no photos ({', '.join(KINDS)}).")
            found += [(file.relative_to(place), file) for file in photos if file.is_file()]
        elif place.is_file():
            found.append((Path(place.name), place))
        else:
            raise FileNotFoundError(2, "no such file or folder", str(place))
    once = {file.resolve(): (name, file) for name, file in found}
    short = Counter(name.with_suffix("").as_posix() for name, _ in once.values())
    named: dict[str, Path] = {}
    for name, file in once.values():
        plain = name.with_suffix("").as_posix()
        label = plain if short[plain] == 1 else name.as_posix()
        if label in named:
            raise ValueError(f"{named[label]} and {file} have one name: give each folder its own --outputs.")
        named[label] = file
    return dict(sorted(named.items()))


@dataclass(frozen=True)
class Item:
    """A photo of a batch: its name, where it is, its run's folder, and its entry in the report."""

    name: str
    photo: Path
    folder: Path
    entry: dict[str, Any]

    @property
    def model(self) -> Path:
        """Where its GLB is, or will be."""
        from synchuman.runfolder import RunFolder

        return RunFolder(self.folder).model

    @property
    def ended(self) -> bool:
        """Whether the report says that a model was made from this very photo with these very settings."""
        return self.entry.get("state") == "done"

    @property
    def done(self) -> bool:
        """Whether that model is here."""
        return self.ended and self.model.is_file()


Ended = Callable[[Item, Path], None]


class Report:
    """The file report.json of a batch, written anew whenever something has changed."""

    def __init__(self, folder: Path, entries: dict[str, dict[str, Any]], ended: Ended | None = None) -> None:
        """Use `Report.open`."""
        self._ended = ended
        self.folder = folder
        self.path = folder / REPORT
        self._entries = entries

    @classmethod
    def open(cls, folder: Path, ended: Ended | None = None) -> Report:
        """Read the report of an earlier call, or begin one.

        Args:
            folder: Where it is.
            ended: Called whenever a photo is done or has failed, with the file of the report.

        Raises:
            ValueError: The file is none of ours.
        """
        path = folder / REPORT
        if not path.exists():
            return cls(folder, {}, ended)
        try:
            read = json.loads(path.read_text())
            known = read["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise ValueError(f"{path} is no report of this version; choose another folder with --outputs.")
        return cls(folder, read["photos"], ended)

    def item(self, name: str, photo: Path, wanted: dict[str, Any]) -> Item:
        """Return a photo with its entry: what an earlier call wrote, or a new one if anything has changed."""
        digest = hashlib.sha256(photo.read_bytes()).hexdigest()
        asked = {"sha256": digest, "wanted": wanted}
        before = self._entries.get(name, {})
        if any(before.get(key) != value for key, value in asked.items()):
            before = {}
        entry = {**before, "photo": str(photo), **asked}
        self._entries[name] = entry
        return Item(name, photo, self.folder / name, entry)

    def has_views(self, item: Item) -> bool:
        """Whether an earlier call finished Stage 1 for the same photo and settings."""
        from synchuman.runfolder import RunFolder, RunFolderError

        if "state" not in item.entry:
            return False
        try:
            RunFolder(item.folder).read_stage_one()
        except RunFolderError:
            return False
        return True

    def forget(self) -> None:
        """Take everything as not done."""
        self._entries = {}

    def start(self, item: Item) -> None:
        """Note that a photo is begun, and remove what another photo or other settings left in its folder."""
        for name in ("OneStage", "SecondStage"):
            shutil.rmtree(item.folder / name, ignore_errors=True)
        self.end(item, {"state": "running"})

    def end(self, item: Item, told: dict[str, Any]) -> None:
        """Note how a photo ended."""
        kept = {name: item.entry[name] for name in ("photo", "sha256", "wanted")}
        item.entry.clear()
        item.entry.update({**kept, **told})
        self._write()
        if self._ended is not None and told["state"] in ("done", "failed"):
            self._ended(item, self.path)

    def summary(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return the report of these photos, with how many are done, failed and missing."""
        states = Counter(item.entry.get("state", "missing") for item in items)
        return {
            "report": str(self.path),
            "done": states["done"],
            "failed": states["failed"],
            "missing": len(items) - states["done"] - states["failed"],
            "photos": {item.name: item.entry for item in items},
        }

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{REPORT}")
        temporary.write_text(json.dumps({"format": FORMAT, "photos": self._entries}, indent=1, default=str))
        os.replace(temporary, self.path)
