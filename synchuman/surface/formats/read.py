"""A GLB read back as a textured mesh, ours or the published code's."""

from __future__ import annotations

import io

import numpy as np

from synchuman.surface.formats.placement import to_z_up
from synchuman.surface.mesh import TexturedMesh, vertex_normals, weld


def read_glb(data: bytes, texture: np.ndarray | None = None) -> TexturedMesh:
    """Read a GLB of one textured mesh into the z-up cube, which it fills along its longest side.

    Args:
        data: The file.
        texture: [t, t, 3] uint8 to take instead of the file's own, where the exact one was kept.

    Raises:
        ValueError: It is no GLB, or not of one mesh with a colour texture.
    """
    import trimesh

    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
        (node,) = scene.graph.nodes_geometry
        turn, name = scene.graph[node]
        model = scene.geometry[name]
        image = model.visual.material.baseColorTexture
        uv = np.asarray(model.visual.uv, np.float32)
    except Exception as error:
        raise ValueError("It is no GLB of one mesh with a colour texture.") from error
    if image is None or len(uv) != len(model.vertices) or not len(model.faces):
        raise ValueError("It is no GLB of one mesh with a colour texture.")
    points = to_z_up(trimesh.transform_points(model.vertices, turn))
    low, high = points.min(0), points.max(0)
    vertices = ((points - (low + high) / 2) / max(float((high - low).max()), 1e-9)).astype(np.float32)
    faces = np.asarray(model.faces, np.int32)
    joined, whole, index = weld(vertices, faces)
    return TexturedMesh(
        vertices,
        faces,
        np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1),
        np.asarray(image.convert("RGB")) if texture is None else texture,
        vertex_normals(joined, whole)[index],
    )
