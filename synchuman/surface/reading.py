"""A finished GLB read back into the z-up cube, for pictures of it and other looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synchuman.surface.mesh import TexturedMesh

FILL = 0.98  # of the cube that the longest side takes


def read_glb(path: Path) -> TexturedMesh:
    """Read a GLB that `export.to_glb` wrote, centred in the cube.

    Raises:
        ValueError: The file is no GLB with one textured mesh.
    """
    import trimesh

    mesh = trimesh.load(path, file_type="glb", force="mesh", process=False)
    visual: Any = getattr(mesh, "visual", None)
    picture = getattr(getattr(visual, "material", None), "baseColorTexture", None)
    if not isinstance(mesh, trimesh.Trimesh) or picture is None or visual.uv is None:
        raise ValueError(f"{path.name} holds no textured mesh.")
    points = _to_z_up(np.asarray(mesh.vertices))
    low, high = points.min(0), points.max(0)
    uv = np.asarray(visual.uv, np.float32)
    return TexturedMesh(
        vertices=((points - (low + high) / 2) * (FILL / max(float((high - low).max()), 1e-9))).astype(
            np.float32
        ),
        faces=np.asarray(mesh.faces, np.int32),
        # trimesh counts from the bottom of the picture, we and glTF from the top.
        uv=np.stack([uv[:, 0], 1 - uv[:, 1]], 1),
        texture=np.asarray(picture.convert("RGB")),
        normals=_to_z_up(np.asarray(mesh.vertex_normals)).astype(np.float32),
    )


def _to_z_up(vectors: np.ndarray) -> np.ndarray:
    """Turn y-up vectors, front towards +z, into z-up ones, front towards -y: undoes `export.to_y_up`."""
    return np.stack([vectors[..., 0], -vectors[..., 2], vectors[..., 1]], axis=-1)
