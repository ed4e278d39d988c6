"""STL and 3MF for 3D printers: closed, z-up, millimetres, standing on the bed."""

from __future__ import annotations

import io
import zipfile
from xml.sax.saxutils import escape

import numpy as np

from synchuman.surface.formats.images import MEDIA_TYPES, SUFFIXES, encode_texture
from synchuman.surface.formats.placement import HEIGHT, print_vertices
from synchuman.surface.mesh import TexturedMesh, is_watertight, weld

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
CONTENT = "http://schemas.openxmlformats.org/package/2006/content-types"
MODEL_RELATION = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
TEXTURE_RELATION = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dtexture"
MODEL_TYPE = "application/vnd.ms-package.3dmanufacturing-3dmodel+xml"
RELATIONS_TYPE = "application/vnd.openxmlformats-package.relationships+xml"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
MODEL_PATH = "3D/3dmodel.model"


def closed(mesh: TexturedMesh, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [v, 3] in millimetres and faces [f, 3] of a mesh without its chart borders.

    Raises:
        ValueError: The surface has holes: no printer could tell its inside.
    """
    points, faces, _ = weld(print_vertices(mesh.vertices, height), mesh.faces)
    if not is_watertight(faces):
        raise ValueError(
            "The model is not closed, so it cannot be printed. Make it again with another number of faces."
        )
    return points, faces


def to_stl(mesh: TexturedMesh, height: float = HEIGHT) -> bytes:
    """Write a mesh as binary STL in millimetres, `height` being in metres.

    Raises:
        ValueError: The surface is not closed.
    """
    import trimesh

    return trimesh.exchange.stl.export_stl(trimesh.Trimesh(*closed(mesh, height), process=False))


def to_3mf(
    mesh: TexturedMesh,
    metadata: dict[str, str] | None = None,
    height: float = HEIGHT,
    image_format: str = "jpeg",
) -> bytes:
    """Write a mesh as 3MF in millimetres, with its texture for colour printers.

    After the 3MF core specification 1.3 and its materials extension; trimesh's writer has no colours.

    Args:
        mesh: The mesh.
        metadata: Texts by the core specification's names (Title, Application, Description ...).
        height: Height of the model in metres.
        image_format: "jpeg" or "png".

    Raises:
        ValueError: The surface is not closed.
    """
    points, faces = closed(mesh, height)
    texture = "3D/Textures/person" + SUFFIXES[image_format]
    uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
    told = "".join(
        f'<metadata name="{name}">{escape(text)}</metadata>' for name, text in (metadata or {}).items()
    )
    model = "".join(
        [
            DECLARATION,
            f'<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}" xmlns:m="{MATERIAL}">',
            f"{told}<resources>",
            f'<m:texture2d id="1" path="/{texture}" contenttype="{MEDIA_TYPES[image_format]}"',
            ' tilestyleu="clamp" tilestylev="clamp"/><m:texture2dgroup id="2" texid="1">',
            _elements('<m:tex2coord u="%.6f" v="%.6f"/>', uv),
            '</m:texture2dgroup><object id="3" type="model" name="person" pid="2" pindex="0">',
            "<mesh><vertices>",
            _elements('<vertex x="%.4f" y="%.4f" z="%.4f"/>', points),
            "</vertices><triangles>",
            _elements(
                '<triangle v1="%d" v2="%d" v3="%d" pid="2" p1="%d" p2="%d" p3="%d"/>',
                np.concatenate([faces, mesh.faces], axis=1),
            ),
            '</triangles></mesh></object></resources><build><item objectid="3"/></build></model>',
        ]
    )
    kind = texture.rsplit(".", 1)[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=5) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'{DECLARATION}<Types xmlns="{CONTENT}">'
            f'<Default Extension="rels" ContentType="{RELATIONS_TYPE}"/>'
            f'<Default Extension="model" ContentType="{MODEL_TYPE}"/>'
            f'<Default Extension="{kind}" ContentType="{MEDIA_TYPES[image_format]}"/></Types>',
        )
        archive.writestr("_rels/.rels", _relation(f"/{MODEL_PATH}", MODEL_RELATION))
        archive.writestr(MODEL_PATH, model)
        archive.writestr("3D/_rels/3dmodel.model.rels", _relation(f"/{texture}", TEXTURE_RELATION))
        archive.writestr(texture, encode_texture(mesh.texture, image_format), zipfile.ZIP_STORED)
    return buffer.getvalue()


def _relation(target: str, kind: str) -> str:
    return (
        f'{DECLARATION}<Relationships xmlns="{RELATIONS}">'
        f'<Relationship Id="rel0" Target="{target}" Type="{kind}"/></Relationships>'
    )


def _elements(template: str, rows: np.ndarray) -> str:
    return "".join([template % tuple(row) for row in rows.tolist()])
