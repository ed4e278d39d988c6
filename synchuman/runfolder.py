"""What a run leaves on disk, and how it is read back: the layout of the published code, plus run.json."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synchuman.surface.mesh import DenseMesh
from synchuman.views import NUM_VIEWS, VIEWS

RECORD = "run.json"
FIRST_STAGE = "OneStage"
SECOND_STAGE = "SecondStage"
COARSE = "coarse.glb"
MODEL = "output.glb"
MESH = "mesh.npz"  # what the model was decimated and textured from
LOGITS = "structure_logits.npz"
GRID = 64  # of the published structure; latent.npz alone does not say it


class RunFolderError(ValueError):
    """A run folder lacks something or holds something unreadable; the message says what."""


@dataclass(frozen=True)
class StageOneFiles:
    """What Stage 1 leaves behind.

    Attributes:
        rgba: [h, w, 4] uint8, the cut-out photo at its own resolution, straight alpha.
        colors: [5, s, s, 3] uint8, order of `views.VIEWS`.
        normals: [5, s, s, 3] uint8.
        logits: [n, n, n] float32 occupancy logits, indexed (x, y, z).
    """

    rgba: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    logits: np.ndarray


class RunFolder:
    """One run on disk. Every file appears whole: it is written beside its place and renamed."""

    def __init__(self, path: Path) -> None:
        """Open `path`; nothing is created before something is written."""
        self.path = Path(path)

    @property
    def first(self) -> Path:
        """Where Stage 1's files are."""
        return self.path / FIRST_STAGE

    @property
    def coarse(self) -> Path:
        """Where the GLB of Stage 1 alone is, or will be."""
        return self.first / COARSE

    @property
    def second(self) -> Path:
        """Where the final files are."""
        return self.path / SECOND_STAGE

    @property
    def model(self) -> Path:
        """Where the final GLB is, or will be."""
        return self.second / MODEL

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json: settings, seed, variant, versions, timings, status."""
        _write(self.path / RECORD, json.dumps(record, indent=2).encode())

    def read_record(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            RunFolderError: There is none, or it is not JSON.
        """
        try:
            return json.loads((self.path / RECORD).read_text())
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} has no {RECORD}; it is not the folder of a run.") from None
        except ValueError:
            raise RunFolderError(f"{RECORD} in {self.path} is not JSON.") from None

    def write_stage_one(self, files: StageOneFiles) -> None:
        """Write OneStage/: the images, occupied voxels (latent.npz, voxel.ply), logits."""
        _write(self.first / "input.png", _png(files.rgba))
        for i in range(NUM_VIEWS):
            _write(self.first / f"color_{i}.png", _png(files.colors[i]))
            _write(self.first / f"normal_{i}.png", _png(files.normals[i]))
        rows = [np.concatenate(list(images), axis=1) for images in (files.colors, files.normals)]
        _write(self.first / "concat.png", _png(np.concatenate(rows, axis=0)))
        voxels = np.argwhere(files.logits > 0)
        _write(self.first / "voxel.ply", _ply((voxels + 0.5) / files.logits.shape[0] - 0.5))
        _write(self.first / LOGITS, _npz(logits=files.logits.astype(np.float32)))
        coords = np.concatenate([np.zeros((len(voxels), 1)), voxels], axis=1).astype(np.float32)
        # Last, because a folder with latent.npz is one from which the next stage can start.
        _write(self.first / "latent.npz", _npz(coords=coords))

    def read_stage_one(self) -> StageOneFiles:
        """Read OneStage/, also one that the published code wrote (no logits: voxels become +1 and -1).

        Raises:
            RunFolderError: A file is missing or unreadable, or images differ in size.
        """
        if not (self.first / "latent.npz").is_file():
            raise RunFolderError(
                f"{self.first} has no latent.npz, which holds the occupied voxels. If Stage 1 has not "
                "finished there, run it, without --skip_stage1. If only that file is lost, carve the voxels "
                "from the masks of the views, with --carve."
            )
        return StageOneFiles(*self.read_views(), self._logits())

    def read_views(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read the images of OneStage/: rgba, colors and normals as in `StageOneFiles`.

        Raises:
            RunFolderError: A file is missing or unreadable, images differ in size, nobody is cut out.
        """
        colors = [self._image(f"color_{i}.png", "RGB") for i in range(NUM_VIEWS)]
        normals = [self._image(f"normal_{i}.png", "RGB") for i in range(NUM_VIEWS)]
        if len({image.shape for image in (*colors, *normals)}) != 1:
            raise RunFolderError(f"The views in {self.first} differ in size.")
        rgba = self._image("input.png", "RGBA")
        if rgba[..., 3].min() == 255:
            raise RunFolderError(
                f"input.png in {self.first} has no transparent background: put the cut-out photo there, RGBA."
            )
        return rgba, np.stack(colors), np.stack(normals)

    def write_coarse(self, glb: bytes) -> Path:
        """Write OneStage/coarse.glb and return its path."""
        _write(self.coarse, glb)
        return self.coarse

    def write_model(self, glb: bytes) -> Path:
        """Write SecondStage/output.glb and return its path."""
        _write(self.model, glb)
        return self.model

    def write_mesh(self, mesh: DenseMesh) -> None:
        """Write SecondStage/mesh.npz, from which a model is decimated and textured anew."""
        colors = {} if mesh.colors is None else {"colors": mesh.colors}
        _write(self.second / MESH, _npz(vertices=mesh.vertices, faces=mesh.faces, **colors))

    def read_mesh(self) -> DenseMesh:
        """Read SecondStage/mesh.npz.

        Raises:
            RunFolderError: It is missing, unreadable or no mesh.
        """
        path = self.second / MESH
        if not path.is_file():
            raise RunFolderError(f"{path} is missing: no finished run is there. Make the model first.")
        try:
            with np.load(path, allow_pickle=False) as archive:
                mesh = DenseMesh(archive["vertices"], archive["faces"], archive.get("colors"))
        except (KeyError, ValueError, OSError, zipfile.BadZipFile):
            raise RunFolderError(f"{path} cannot be read as a mesh; make the model again.") from None
        good = mesh.vertices.ndim == mesh.faces.ndim == 2 and len(mesh.faces) and mesh.faces.min() >= 0
        if not good or mesh.faces.max() >= len(mesh.vertices):
            raise RunFolderError(f"{path} is no mesh; make the model again.")
        return mesh

    def write_views_archive(self) -> Path:
        """Pack the ten images under their views' names into views.zip and return its path."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for i, view in enumerate(VIEWS):
                for kind in ("color", "normal"):
                    archive.write(self.first / f"{kind}_{i}.png", f"{kind}_{i}_{view.name}.png")
        path = self.path / "views.zip"
        _write(path, buffer.getvalue())
        return path

    def _image(self, name: str, mode: str) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.first / name) as image:
                return np.asarray(image.convert(mode))
        except FileNotFoundError:
            raise RunFolderError(f"{self.first} has no {name}.") from None
        except (UnidentifiedImageError, OSError):
            raise RunFolderError(f"{name} in {self.first} cannot be read as an image.") from None

    def _logits(self) -> np.ndarray:
        if (self.first / LOGITS).is_file():
            return self._array(LOGITS, "logits").astype(np.float32)
        coords = self._array("latent.npz", "coords")
        if coords.ndim != 2 or coords.shape[1] != 4 or not len(coords):
            raise RunFolderError(f"latent.npz in {self.first} must hold rows (0, x, y, z) under `coords`.")
        voxels = coords[:, 1:].astype(np.int64)
        if voxels.min() < 0 or voxels.max() >= GRID:
            raise RunFolderError(f"latent.npz in {self.first} has voxels outside the {GRID}³ grid.")
        logits = np.full((GRID, GRID, GRID), -1.0, np.float32)
        logits[tuple(voxels.T)] = 1.0
        return logits

    def _array(self, name: str, key: str) -> np.ndarray:
        try:
            with np.load(self.first / name, allow_pickle=False) as archive:
                return archive[key]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile):
            raise RunFolderError(f"{name} in {self.first} holds no readable array {key!r}.") from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _ply(points: np.ndarray) -> bytes:
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
    )
    return header.encode() + points.astype("<f4").tobytes()
