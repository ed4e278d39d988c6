"""Results of a batch at an address (s3://bucket/folder, or any that fsspec knows), beside the local ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.commands.report import REPORT

if TYPE_CHECKING:
    from synchuman.commands.report import Item


class Remote:
    """A folder somewhere else, to which finished runs are copied; the report goes last, so it never lies."""

    def __init__(self, address: str) -> None:
        """Open an address.

        Raises:
            ValueError: Nothing that is installed can write to it.
        """
        from fsspec.core import url_to_fs

        try:
            self._files, self._root = url_to_fs(address.rstrip("/"))
        except ImportError as error:
            raise ValueError(f"{address}: {error}") from None
        self._root = self._root.rstrip("/")

    def fetch_report(self, folder: Path) -> None:
        """Bring the report of an earlier call, unless one is here."""
        source = f"{self._root}/{REPORT}"
        if not (folder / REPORT).exists() and self._files.exists(source):
            folder.mkdir(parents=True, exist_ok=True)
            self._files.get_file(source, str(folder / REPORT))

    def has(self, item: Item) -> bool:
        """Tell whether a photo's model is there."""
        return self._files.exists(
            f"{self._root}/{item.name}/{item.model.relative_to(item.folder).as_posix()}"
        )

    def put(self, item: Item, report: Path) -> None:
        """Copy a finished run, its model last, then the report."""
        model = item.model
        files = [file for file in sorted(item.folder.rglob("*")) if file.is_file() and file != model]
        for file in (*files, *([model] if model.is_file() else [])):
            if not file.name.startswith("."):
                self._put(file, f"{self._root}/{item.name}/{file.relative_to(item.folder).as_posix()}")
        self._put(report, f"{self._root}/{REPORT}")

    def _put(self, source: Path, target: str) -> None:
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(source), target)
