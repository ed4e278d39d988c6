"""USDZ for Apple's viewers: a text layer and the texture in an uncompressed, aligned ZIP.

Written here because the `usd-core` library has no wheels for all Pythons and processors that we run on.
After the USDZ specification (openusd.org/release/spec_usdz.html) and the UsdPreviewSurface one.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np

from synchuman.surface.formats.images import SUFFIXES, encode_texture
from synchuman.surface.formats.placement import HEIGHT, to_y_up, world_vertices
from synchuman.surface.mesh import TexturedMesh

ALIGNMENT = 64  # bytes on which every file of the package begins
LOCAL_HEADER = 30  # bytes of a ZIP's header before a file's name
PADDING = 0x1986  # id of the extra field that USD's own writer pads with
EPOCH = (1980, 1, 1, 0, 0, 0)


def to_usdz(
    mesh: TexturedMesh,
    metadata: dict[str, Any] | None = None,
    height: float = HEIGHT,
    image_format: str = "jpeg",
) -> bytes:
    """Write a mesh as USDZ: y-up, metres, one preview surface with a colour texture.

    Args:
        mesh: The mesh.
        metadata: JSON values, kept as text under the layer's `customLayerData`.
        height: Height of the model in metres.
        image_format: "jpeg" or "png".
    """
    texture = "textures/person" + SUFFIXES[image_format]
    layer = _layer(mesh, height, texture, json.dumps(metadata or {}))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        # The layer that is shown comes first.
        _add(archive, buffer, "person.usda", layer.encode())
        _add(archive, buffer, texture, encode_texture(mesh.texture, image_format))
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, data: bytes) -> None:
    start = buffer.tell() + LOCAL_HEADER + len(name) + 4  # 4: the extra field's own header
    padding = -start % ALIGNMENT
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.extra = struct.pack("<HH", PADDING, padding) + bytes(padding)
    archive.writestr(entry, data)


def _layer(mesh: TexturedMesh, height: float, texture: str, about: str) -> str:
    points = world_vertices(mesh.vertices, height)
    uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1)
    low, high = points.min(0), points.max(0)
    counts = ", ".join(["3"] * len(mesh.faces))
    indices = ", ".join(map(str, mesh.faces.ravel().tolist()))
    return f"""#usda 1.0
(
    customLayerData = {{
        string about = {json.dumps(about)}
    }}
    defaultPrim = "person"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "person" (
    kind = "component"
)
{{
    def Mesh "surface" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        float3[] extent = [{_tuples("%.6f, %.6f, %.6f", np.stack([low, high]))}]
        int[] faceVertexCounts = [{counts}]
        int[] faceVertexIndices = [{indices}]
        rel material:binding = </person/materials/skin_and_clothes>
        normal3f[] normals = [{_tuples("%.4f, %.4f, %.4f", to_y_up(mesh.normals))}] (
            interpolation = "vertex"
        )
        point3f[] points = [{_tuples("%.6f, %.6f, %.6f", points)}]
        texCoord2f[] primvars:st = [{_tuples("%.6f, %.6f", uv)}] (
            interpolation = "vertex"
        )
        uniform token subdivisionScheme = "none"
    }}

    def Scope "materials"
    {{
        def Material "skin_and_clothes"
        {{
            token outputs:surface.connect = </person/materials/skin_and_clothes/surface.outputs:surface>

            def Shader "surface"
            {{
                uniform token info:id = "UsdPreviewSurface"
                color3f inputs:diffuseColor.connect = </person/materials/skin_and_clothes/texture.outputs:rgb>
                float inputs:metallic = 0
                float inputs:roughness = 1
                token outputs:surface
            }}

            def Shader "texture"
            {{
                uniform token info:id = "UsdUVTexture"
                asset inputs:file = @{texture}@
                token inputs:sourceColorSpace = "sRGB"
                float2 inputs:st.connect = </person/materials/skin_and_clothes/coordinates.outputs:result>
                token inputs:wrapS = "clamp"
                token inputs:wrapT = "clamp"
                float3 outputs:rgb
            }}

            def Shader "coordinates"
            {{
                uniform token info:id = "UsdPrimvarReader_float2"
                string inputs:varname = "st"
                float2 outputs:result
            }}
        }}
    }}
}}
"""


def _tuples(template: str, rows: np.ndarray) -> str:
    return ", ".join([f"({template % tuple(row)})" for row in rows.tolist()])
