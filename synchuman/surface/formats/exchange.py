"""OBJ and PLY: what modelling programs read everywhere. Vertices are joined over chart borders."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from synchuman.surface.formats.images import SUFFIXES, encode_texture
from synchuman.surface.formats.placement import HEIGHT, to_y_up, world_vertices
from synchuman.surface.mesh import TexturedMesh, weld
from synchuman.surface.preview import sample_texture

NAME = "person"


def to_obj_zip(mesh: TexturedMesh, height: float = HEIGHT, image_format: str = "jpeg") -> bytes:
    """Write a mesh as a ZIP of an OBJ, its MTL and the texture; y-up, metres.

    Positions and texture coordinates have indices of their own, so that the surface stays closed, which
    trimesh's writer does not do.

    Args:
        mesh: The mesh.
        height: Height of the model in metres.
        image_format: "jpeg" or "png".
    """
    texture = NAME + SUFFIXES[image_format]
    points, faces, index = weld(world_vertices(mesh.vertices, height), mesh.faces)
    normals = np.empty_like(points)
    normals[index] = to_y_up(mesh.normals)
    # OBJ counts from 1 and has its texture's origin at the bottom.
    corners = np.stack([faces, mesh.faces, faces], axis=2).reshape(-1, 9) + 1
    uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
    obj = "\n".join(
        [
            f"mtllib {NAME}.mtl",
            f"o {NAME}",
            _lines("v %.6f %.6f %.6f", points),
            _lines("vt %.6f %.6f", uv),
            _lines("vn %.4f %.4f %.4f", normals),
            f"usemtl {NAME}",
            _lines("f %d/%d/%d %d/%d/%d %d/%d/%d", corners),
            "",
        ]
    )
    mtl = f"newmtl {NAME}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {texture}\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=5) as archive:
        archive.writestr(f"{NAME}.obj", obj)
        archive.writestr(f"{NAME}.mtl", mtl)
        archive.writestr(texture, encode_texture(mesh.texture, image_format), zipfile.ZIP_STORED)
    return buffer.getvalue()


def to_ply(mesh: TexturedMesh, height: float = HEIGHT) -> bytes:
    """Write a mesh as binary PLY with a normal and a colour per vertex; y-up, metres."""
    import trimesh

    points, faces, index = weld(world_vertices(mesh.vertices, height), mesh.faces)
    normals, colors, copies = np.zeros_like(points), np.zeros_like(points), np.zeros((len(points), 1))
    normals[index] = to_y_up(mesh.normals)
    np.add.at(colors, index, sample_texture(mesh.texture, mesh.uv))
    np.add.at(copies, index, 1)
    model = trimesh.Trimesh(
        points,
        faces,
        vertex_normals=normals,
        vertex_colors=np.clip(colors / copies + 0.5, 0, 255).astype(np.uint8),
        process=False,
    )
    return trimesh.exchange.ply.export_ply(model, vertex_normal=True)


def _lines(template: str, rows: np.ndarray) -> str:
    return "\n".join([template % tuple(row) for row in rows.tolist()])
