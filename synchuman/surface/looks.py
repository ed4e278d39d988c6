"""Other looks of a finished model for 3D viewers: as clay, as normals, as a wire frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

Look = Literal["clay", "normals", "wire"]

CLAY = (0.49, 0.53, 0.47, 1.0)  # linear light
WIRE = (0.005, 0.11, 0.10, 1.0)
UNLIT = "KHR_materials_unlit"
LINES = 1  # mode of a glTF primitive
LIFT = 0.0006  # of the model's height that the wires stand off, so that faces do not swallow them


def look_glb(path: Path, look: Look) -> bytes:
    """Return a finished GLB in another look, with the same size and place.

    Args:
        path: A GLB that `formats.glb.to_glb` wrote.
        look: "clay": one matt colour. "normals": the colour of a point is its normal * 0.5 + 0.5, x to the
            right, y up, z to the front. "wire": the edges on a clay body that hides those behind it.

    Raises:
        ValueError: There is no such look, or the file holds no mesh.
    """
    import trimesh

    if look not in get_args(Look):
        raise ValueError(f"A model can look like {', '.join(get_args(Look))}, not {look!r}.")
    mesh = trimesh.load(path, file_type="glb", force="mesh", process=False)
    if not isinstance(mesh, trimesh.Trimesh):
        raise ValueError(f"{path.name} holds no mesh.")
    normals = np.array(mesh.vertex_normals)
    colors = _as_colors(normals) if look == "normals" else None
    body = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=normals, vertex_colors=colors, process=False
    )
    parts: list[Any] = [body]
    if look == "wire":
        parts.append(_wires(mesh, normals))

    def dress(tree: dict[str, Any]) -> None:
        matt = {"baseColorFactor": CLAY, "metallicFactor": 0.0, "roughnessFactor": 0.9}
        bare: dict[str, Any] = {"extensions": {UNLIT: {}}}
        tree["materials"] = [
            bare if look == "normals" else {"pbrMetallicRoughness": matt},
            {"pbrMetallicRoughness": {"baseColorFactor": WIRE}, **bare},
        ][: len(parts)]
        if len(parts) > 1 or look == "normals":
            tree["extensionsUsed"] = [UNLIT]
        for primitive in (primitive for part in tree["meshes"] for primitive in part["primitives"]):
            primitive["material"] = int(primitive.get("mode") == LINES)

    return trimesh.Scene(parts).export(file_type="glb", include_normals=True, tree_postprocessor=dress)


def _as_colors(normals: np.ndarray) -> np.ndarray:
    colors = np.clip(normals * 0.5 + 0.5, 0, 1)
    # glTF takes vertex colours as linear light.
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    return np.rint(np.concatenate([linear, np.ones((len(normals), 1))], 1) * 255).astype(np.uint8)


def _wires(mesh: Any, normals: np.ndarray) -> Any:
    from trimesh.path import Path3D
    from trimesh.path.entities import Line

    points = np.asarray(mesh.vertices) + normals * (LIFT * float(mesh.extents[1]))
    return Path3D([Line(edge) for edge in mesh.edges_unique], points, process=False)
