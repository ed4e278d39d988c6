"""The files of a job: what may be fetched of them, what they take, how they go."""

from __future__ import annotations

import errno
import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO

from synchuman.runfolder import FIRST_STAGE, GAUSSIANS, MESH, RECORD, SECOND_STAGE
from synchuman.serving.jobs import PHOTO, DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


def clean_photo(photo: IO[bytes]) -> bytes:
    """Decode a photo and return it as a PNG of pixels alone: no EXIF, no place, no camera, no comments.

    Raises:
        PhotoError: It cannot be used.
    """
    import numpy as np
    from PIL import Image

    from synchuman.photo import MAX_SIDE
    from synchuman.photo.decode import MAX_BYTES, decode, shrink

    # One byte more than allowed is enough for the refusal.
    image = shrink(decode(photo.read(MAX_BYTES + 1)), MAX_SIDE)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make(folder: Path, photo: bytes | None) -> None:
    """Make a job's folder with its photo.

    Raises:
        DiskFull: There is no room.
    """
    try:
        folder.mkdir(mode=0o700)
        if photo is not None:
            (folder / PHOTO).write_bytes(photo)
    except OSError as error:
        remove(folder)
        if error.errno in FULL:
            raise DiskFull("The disk of the server is full. Please try again later.") from None
        raise


def inherit(folder: Path, parent: Path) -> None:
    """Give a job what another one kept beside its model; linked, as files are never changed in place."""
    second = (parent / SECOND_STAGE / name for name in (MESH, GAUSSIANS))
    for file in (*sorted((parent / FIRST_STAGE).iterdir()), *second, parent / RECORD):
        if file.name.startswith(".") or not file.is_file():
            continue
        target = folder / file.relative_to(parent)
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(file, target)
        except OSError:  # a file system without links
            shutil.copyfile(file, target)


def listed(folder: Path) -> dict[str, Path]:
    """Return the files that a user may fetch, by name; no path is ever made from a name that a user gave."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".") and path.name != PHOTO
    }


def pack(folder: Path, archive: Path) -> None:
    """Pack the files that a user may fetch into a ZIP."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name, path in listed(folder).items():
            target.write(path, name)


def size(folder: Path) -> int:
    """Return the bytes that a folder takes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def strip(folder: Path) -> None:
    """Remove the photo: with the run over nobody needs it."""
    (folder / PHOTO).unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder, whatever is in it; one that is gone is fine."""
    shutil.rmtree(folder, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on a folder's disk."""
    return shutil.disk_usage(folder).free
