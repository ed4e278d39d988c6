"""GLB files: y-up, metres, front towards +z, one PBR material with a colour texture."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from synchuman.surface.formats.images import MEDIA_TYPES, encode_texture
from synchuman.surface.formats.placement import HEIGHT, to_y_up, world_vertices
from synchuman.surface.mesh import TexturedMesh

GENERATOR = "SyncHuman Studio"
WEBP_EXTENSION = "EXT_texture_webp"

_FLOAT, _UNSIGNED_INT = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


def to_glb(
    mesh: TexturedMesh,
    metadata: dict[str, Any] | None = None,
    height: float = HEIGHT,
    image_format: str = "jpeg",
) -> bytes:
    """Write a mesh as binary glTF 2.0.

    Args:
        mesh: The mesh, in the z-up cube.
        metadata: JSON values kept under `asset.extras` (settings, seed, variant).
        height: Height of the model in metres.
        image_format: How the texture is stored: "jpeg", "png" or "webp"; the last needs a reader that knows
            EXT_texture_webp, as browsers and current viewers do.

    Returns:
        The file's bytes.

    Raises:
        ValueError: The height is not positive, the mesh is empty or the image format unknown.
    """
    if not len(mesh.faces):
        raise ValueError("The mesh has no faces; nothing to export.")
    points = world_vertices(mesh.vertices, height)
    normals = to_y_up(mesh.normals.astype(np.float64))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    chunks = [
        points.astype("<f4").tobytes(),
        normals.astype("<f4").tobytes(),
        np.clip(mesh.uv, 0, 1).astype("<f4").tobytes(),
        mesh.faces.astype("<u4").tobytes(),
        encode_texture(mesh.texture, image_format),
    ]
    targets = [_ARRAY_BUFFER, _ARRAY_BUFFER, _ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER, None]
    views: list[dict[str, Any]] = []
    blob = b""
    for chunk, target in zip(chunks, targets):
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(blob), "byteLength": len(chunk)}
        if target:
            view["target"] = target
        views.append(view)
        blob += chunk + b"\0" * (-len(chunk) % 4)
    count = len(points)
    asset: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
    if metadata:
        asset["extras"] = metadata
    document = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "person"}],
        "meshes": [{"primitives": [_PRIMITIVE], "name": "person"}],
        "materials": [_MATERIAL],
        "textures": [{**_source(image_format), "sampler": 0}],
        "samplers": [
            {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
        ],
        "images": [{"bufferView": 4, "mimeType": MEDIA_TYPES[image_format]}],
        "accessors": [
            {
                "bufferView": 0, "componentType": _FLOAT, "count": count, "type": "VEC3",
                "min": points.min(0).tolist(), "max": points.max(0).tolist(),
            },
            {"bufferView": 1, "componentType": _FLOAT, "count": count, "type": "VEC3"},
            {"bufferView": 2, "componentType": _FLOAT, "count": count, "type": "VEC2"},
            {"bufferView": 3, "componentType": _UNSIGNED_INT, "count": mesh.faces.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }  # fmt: skip
    if image_format == "webp":
        document["extensionsUsed"] = document["extensionsRequired"] = [WEBP_EXTENSION]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(blob))
    return b"".join(
        [
            header,
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(blob), b"BIN\0"),
            blob,
        ]
    )


_PRIMITIVE = {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
_MATERIAL = {
    "name": "skin and clothes",
    "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
}


def _source(image_format: str) -> dict[str, Any]:
    """Return how a texture names its image; core glTF knows JPEG and PNG alone."""
    return {"extensions": {WEBP_EXTENSION: {"source": 0}}} if image_format == "webp" else {"source": 0}
