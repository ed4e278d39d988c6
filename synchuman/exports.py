"""What a finished run is handed out as: one table, and one function that makes any of its files on demand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synchuman.runfolder import RunFolder
    from synchuman.surface.mesh import TexturedMesh

HEIGHT = 1.7  # metres, unless another one is asked for
LOWEST, HIGHEST = 0.01, 10.0


class ExportError(ValueError):
    """The choice does not go together; the message says what does."""


class FinishedRun:
    """What exports are made of, read once and only when needed."""

    def __init__(self, folder: RunFolder) -> None:
        """Open a run's folder."""
        self.folder = folder

    @cached_property
    def mesh(self) -> TexturedMesh:
        """The final model."""
        return self.folder.read_model()

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a file tells about its making; little where the published code ran."""
        from synchuman.runfolder import RECORD
        from synchuman.runlog import model_extras

        there = (self.folder.path / RECORD).is_file()
        return model_extras(self.folder.read_record() if there else {})


@dataclass(frozen=True)
class Choice:
    """How an export is made: kind of the texture (empty where there is none), height in metres."""

    texture: str
    height: float


@dataclass(frozen=True)
class ExportFormat:
    """One kind of file.

    Attributes:
        name: As users write it.
        title: As a page shows it.
        text: What it is good for.
        file: Name of the file that is made.
        media_type: Of the file.
        write: Makes the file's bytes.
        textures: Kinds in which it can hold its texture, the default first.
        scaled: Whether its height can be chosen.
        gaussians: Whether it needs the run's gaussians.
    """

    name: str
    title: str
    text: str
    file: str
    media_type: str
    write: Callable[[FinishedRun, Choice], bytes]
    textures: tuple[str, ...] = ()
    scaled: bool = False
    gaussians: bool = False

    def choose(self, texture: str | None = None, height: float | None = None) -> Choice:
        """Return a checked choice; None takes the default.

        Raises:
            ExportError: This format has no such choice, or the height is out of its bounds.
        """
        if texture is not None and texture not in self.textures:
            kinds = ", ".join(self.textures) or "no texture: leave it out"
            raise ExportError(f"texture: {self.title} has {kinds}; not {texture!r}.")
        if height is not None and not self.scaled:
            raise ExportError(f"height: {self.title} has none; leave it out.")
        if height is not None and not LOWEST <= height <= HIGHEST:
            raise ExportError(f"height: it is from {LOWEST} to {HIGHEST} metres, not {height}.")
        return Choice(texture or (self.textures or ("",))[0], height or HEIGHT)

    def file_of(self, choice: Choice) -> str:
        """Return the file's name; what is not the default shows in it."""
        stem, dot, suffix = self.file.rpartition(".")
        if self.textures and choice.texture != self.textures[0]:
            stem += f"-{choice.texture}"
        if choice.height != HEIGHT:
            stem += f"-{choice.height * 1000:g}mm"
        return stem + dot + suffix


@dataclass(frozen=True)
class Offer:
    """A format for one run: its default file, whether it is there already, or why it cannot be made."""

    format: ExportFormat
    path: Path
    ready: bool
    lacking: str | None


def export(folder: Path, name: str, texture: str | None = None, height: float | None = None) -> Path:
    """Make a file of a finished run, or return the one that was made before.

    Args:
        folder: The run's folder.
        name: One of `FORMATS`.
        texture: "jpeg", "png" or "webp", where the format has a choice; None for its first.
        height: Height of the person in metres, where the format has one; None for 1.7.

    Returns:
        The file, in the folder's `exports`; it appears there whole.

    Raises:
        ExportError: There is no such format, or the choice does not go with it.
        RunFolderError: No finished run is there, or it lacks what the format needs.
        ValueError: The model cannot be written so (one that is not closed cannot be printed).
    """
    from synchuman.filing import write_whole
    from synchuman.runfolder import RunFolder

    path, there = find(folder, name, texture, height)
    if there:
        return path
    kind, place = FORMATS[name], RunFolder(folder)
    data = kind.write(FinishedRun(place), kind.choose(texture, height))
    # A folder that was deleted meanwhile stays so.
    place.exports.mkdir(exist_ok=True)
    write_whole(path, data)
    return path


def find(
    folder: Path, name: str, texture: str | None = None, height: float | None = None
) -> tuple[Path, bool]:
    """Return where `export` puts a file, and whether it is there; arguments and errors as there."""
    from synchuman.runfolder import RunFolder

    if name not in FORMATS:
        raise ExportError(f"format: there is no {name!r}; there are {', '.join(FORMATS)}.")
    place = RunFolder(folder)
    path = place.exports / FORMATS[name].file_of(FORMATS[name].choose(texture, height))
    return path, _fresh(path, place.find_model())


def offers(folder: Path) -> list[Offer]:
    """List all formats for a finished run.

    Raises:
        RunFolderError: No finished run is there.
    """
    from synchuman.runfolder import GAUSSIANS, RunFolder

    place = RunFolder(folder)
    model = place.find_model()
    told = []
    for kind in FORMATS.values():
        path = place.exports / kind.file_of(kind.choose())
        lacking = NO_GAUSSIANS if kind.gaussians and not (place.second / GAUSSIANS).is_file() else None
        told.append(Offer(kind, path, _fresh(path, model), lacking))
    return told


def _fresh(path: Path, model: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= model.stat().st_mtime_ns


def _glb(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.glb import to_glb

    return to_glb(run.mesh, run.about, choice.height, choice.texture)


def _obj(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.exchange import to_obj_zip

    return to_obj_zip(run.mesh, choice.height, choice.texture)


def _ply(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.exchange import to_ply

    return to_ply(run.mesh, choice.height)


def _stl(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.printing import to_stl

    return to_stl(run.mesh, choice.height)


def _3mf(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.printing import to_3mf

    told = {
        "Title": "Person",
        "Application": run.about["app"],
        "Description": json.dumps(run.about),
    }
    return to_3mf(run.mesh, told, choice.height, choice.texture)


def _usdz(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.usdz import to_usdz

    return to_usdz(run.mesh, run.about, choice.height, choice.texture)


def _gaussians(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.gaussians import to_gaussian_ply
    from synchuman.surface.formats.placement import Placement

    cloud = run.folder.read_gaussians()
    return to_gaussian_ply(cloud, Placement.of(run.folder.read_mesh().vertices, choice.height))


def _sheet(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.filing import png_bytes
    from synchuman.surface.preview import contact_sheet

    return png_bytes(contact_sheet(run.mesh))


def _mp4(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.turntable import to_mp4

    return to_mp4(run.mesh)


def _webp(run: FinishedRun, choice: Choice) -> bytes:
    from synchuman.surface.formats.turntable import to_webp

    return to_webp(run.mesh)


def _zip(run: FinishedRun, choice: Choice) -> bytes:
    """Pack what the run kept, and every format once, in its default."""
    from synchuman.runfolder import EXPORTS, FIRST_STAGE, RECORD, SECOND_STAGE

    root = run.folder.path
    files = {f"{EXPORTS}/{offer.path.name}": offer for offer in offers(root)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(
            (root / RECORD, *(root / FIRST_STAGE).glob("*"), *(root / SECOND_STAGE).glob("*"))
        ):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, path.relative_to(root).as_posix())
        for name, offer in files.items():
            if offer.lacking is None and offer.format.write is not _zip:
                archive.write(export(root, offer.format.name), name)
    return buffer.getvalue()


NO_GAUSSIANS = "This run has no gaussians: only weights with a gaussian decoder, like the published ones, do."
FORMATS: dict[str, ExportFormat] = {
    kind.name: kind
    for kind in (
        ExportFormat(
            "glb", "GLB", "For the web, game engines and Blender; with the run's settings inside.",
            "person.glb", "model/gltf-binary", _glb, ("jpeg", "png", "webp"), scaled=True,
        ),
        ExportFormat(
            "usdz", "USDZ", "For iPhone, iPad and Mac: opens in augmented reality.",
            "person.usdz", "model/vnd.usdz+zip", _usdz, ("jpeg", "png"), scaled=True,
        ),
        ExportFormat(
            "obj", "OBJ", "For every modelling program: a ZIP of OBJ, MTL and texture.",
            "person-obj.zip", "application/zip", _obj, ("jpeg", "png"), scaled=True,
        ),
        ExportFormat(
            "ply", "PLY", "For mesh and scan programs, with a colour per vertex.",
            "person.ply", "application/octet-stream", _ply, scaled=True,
        ),
        ExportFormat(
            "stl", "STL", "For 3D printers: closed, in millimetres.",
            "person.stl", "model/stl", _stl, scaled=True,
        ),
        ExportFormat(
            "3mf", "3MF", "For 3D printers, in colour where they can: closed, in millimetres.",
            "person.3mf", "model/3mf", _3mf, ("jpeg", "png"), scaled=True,
        ),
        ExportFormat(
            "gaussians", "Gaussians (PLY)", "For splat viewers; from weights with a gaussian decoder.",
            "person-gaussians.ply", "application/octet-stream", _gaussians, scaled=True, gaussians=True,
        ),
        ExportFormat(
            "png", "Pictures", "Four sides and the face, in colour and as clay.",
            "person-views.png", "image/png", _sheet,
        ),
        ExportFormat(
            "mp4", "Turntable (MP4)", "A film of one turn, for everywhere.",
            "turntable.mp4", "video/mp4", _mp4,
        ),
        ExportFormat(
            "webp", "Turntable (WebP)", "A moving picture of one turn, for web pages.",
            "turntable.webp", "image/webp", _webp,
        ),
        ExportFormat(
            "zip", "Everything", "All of the above, the views and what the run kept.",
            "person.zip", "application/zip", _zip,
        ),
    )
}  # fmt: skip
