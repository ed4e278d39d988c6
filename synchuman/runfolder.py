"""What a run leaves on disk, and how it is read back: the layout of the published code, plus run.json."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synchuman.filing import npz_bytes, ply_bytes, png_bytes, write_whole
from synchuman.surface.mesh import DenseMesh
from synchuman.views import NUM_VIEWS, VIEWS

if TYPE_CHECKING:
    from synchuman.surface.formats.gaussians import GaussianCloud
    from synchuman.surface.mesh import TexturedMesh

RECORD = "run.json"
FIRST_STAGE = "OneStage"
SECOND_STAGE = "SecondStage"
COARSE = "coarse.glb"
MODEL = "output.glb"
PUBLISHED_MODEL = "ouput.glb"  # as the published code spells it
MESH = "mesh.npz"  # what the model was decimated and textured from
TEXTURE = "texture.png"  # of the model, exact
GAUSSIANS = "gaussians.npz"
EXPORTS = "exports"
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
        write_whole(self.path / RECORD, json.dumps(record, indent=2).encode())

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
        write_whole(self.first / "input.png", png_bytes(files.rgba))
        for i in range(NUM_VIEWS):
            write_whole(self.first / f"color_{i}.png", png_bytes(files.colors[i]))
            write_whole(self.first / f"normal_{i}.png", png_bytes(files.normals[i]))
        rows = [np.concatenate(list(images), axis=1) for images in (files.colors, files.normals)]
        write_whole(self.first / "concat.png", png_bytes(np.concatenate(rows, axis=0)))
        voxels = np.argwhere(files.logits > 0)
        write_whole(self.first / "voxel.ply", ply_bytes((voxels + 0.5) / files.logits.shape[0] - 0.5))
        write_whole(self.first / LOGITS, npz_bytes(logits=files.logits.astype(np.float32)))
        coords = np.concatenate([np.zeros((len(voxels), 1)), voxels], axis=1).astype(np.float32)
        # Last, because a folder with latent.npz is one from which the next stage can start.
        write_whole(self.first / "latent.npz", npz_bytes(coords=coords))

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
        colors = [self._image(self.first / f"color_{i}.png", "RGB") for i in range(NUM_VIEWS)]
        normals = [self._image(self.first / f"normal_{i}.png", "RGB") for i in range(NUM_VIEWS)]
        if len({image.shape for image in (*colors, *normals)}) != 1:
            raise RunFolderError(f"The views in {self.first} differ in size.")
        rgba = self._image(self.first / "input.png", "RGBA")
        if rgba[..., 3].min() == 255:
            raise RunFolderError(
                f"input.png in {self.first} has no transparent background: put the cut-out photo there, RGBA."
            )
        return rgba, np.stack(colors), np.stack(normals)

    def write_coarse(self, glb: bytes) -> Path:
        """Write OneStage/coarse.glb and return its path."""
        write_whole(self.coarse, glb)
        return self.coarse

    @property
    def exports(self) -> Path:
        """Where files made of the model on demand are."""
        return self.path / EXPORTS

    def write_model(self, glb: bytes, texture: np.ndarray) -> Path:
        """Write SecondStage/output.glb and its texture [t, t, 3] uint8; return the model's path.

        What was exported of an earlier model goes.
        """
        shutil.rmtree(self.exports, ignore_errors=True)
        write_whole(self.second / TEXTURE, png_bytes(texture, compress_level=1))
        write_whole(self.model, glb)
        return self.model

    def find_model(self) -> Path:
        """Return the final GLB's path, also where the published code wrote it.

        Raises:
            RunFolderError: There is none.
        """
        for path in (self.model, self.second / PUBLISHED_MODEL):
            if path.is_file():
                return path
        raise RunFolderError(f"{self.model} is missing: no finished run is there. Make the model first.")

    def read_model(self) -> TexturedMesh:
        """Read the final model with its exact texture, or the GLB's where that was not kept.

        Raises:
            RunFolderError: It is missing or not readable.
        """
        from synchuman.surface.formats.read import read_glb

        path, kept = self.find_model(), self.second / TEXTURE
        texture = self._image(kept, "RGB") if kept.is_file() and path == self.model else None
        try:
            return read_glb(path.read_bytes(), texture)
        except ValueError as error:
            raise RunFolderError(f"{path} cannot be used. {error}") from None

    def write_gaussians(self, cloud: GaussianCloud | None) -> None:
        """Write SecondStage/gaussians.npz; None removes one of an earlier run."""
        path = self.second / GAUSSIANS
        if cloud is None:
            path.unlink(missing_ok=True)
            return
        buffer = io.BytesIO()
        np.savez(buffer, **vars(cloud))  # noise does not compress
        write_whole(path, buffer.getvalue())

    def read_gaussians(self) -> GaussianCloud:
        """Read SecondStage/gaussians.npz.

        Raises:
            RunFolderError: It is missing or not readable.
        """
        from synchuman.surface.formats.gaussians import GaussianCloud

        path = self.second / GAUSSIANS
        if not path.is_file():
            raise RunFolderError(
                "This run has no gaussians: they come from weights with a gaussian decoder, like the "
                "published ones."
            )
        try:
            with np.load(path, allow_pickle=False) as archive:
                return GaussianCloud(**{field.name: archive[field.name] for field in fields(GaussianCloud)})
        except (KeyError, ValueError, OSError, zipfile.BadZipFile):
            raise RunFolderError(f"{path} cannot be read; make the model again.") from None

    def write_mesh(self, mesh: DenseMesh) -> None:
        """Write SecondStage/mesh.npz, from which a model is decimated and textured anew."""
        colors = {} if mesh.colors is None else {"colors": mesh.colors}
        write_whole(self.second / MESH, npz_bytes(vertices=mesh.vertices, faces=mesh.faces, **colors))

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
        write_whole(path, buffer.getvalue())
        return path

    @staticmethod
    def _image(path: Path, mode: str) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return np.asarray(image.convert(mode))
        except FileNotFoundError:
            raise RunFolderError(f"{path.parent} has no {path.name}.") from None
        except (UnidentifiedImageError, OSError):
            raise RunFolderError(f"{path.name} in {path.parent} cannot be read as an image.") from None

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
