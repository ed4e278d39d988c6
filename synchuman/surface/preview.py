"""Pictures of a surface without a display: orthographic, from any side, textured, as clay or as normals."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.raster import rasterize

Style = Literal["texture", "clay", "normal"]


def camera_axes(yaw: float, pitch: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return right, up and toward-camera unit vectors.

    Args:
        yaw: Degrees; 0 looks at the front, 90 at the person's side that is at +x, 180 at the back.
        pitch: Degrees the camera is raised.
    """
    a, b = np.radians(yaw), np.radians(pitch)
    right = np.array([np.cos(a), np.sin(a), 0.0])
    toward = np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)])
    return right, np.cross(toward, right), toward


def render(
    mesh: TexturedMesh,
    yaw: float = 0.0,
    size: int = 512,
    style: Style = "texture",
    pitch: float = 0.0,
    extent: float = 1.05,
    shading: float = 0.0,
    supersample: int = 2,
) -> np.ndarray:
    """Render a mesh on transparent ground.

    Args:
        mesh: The mesh, in the z-up cube.
        yaw: Degrees around the person, see `camera_axes`.
        size: Side of the picture in pixels.
        style: Texture, grey clay or normals in the camera's frame.
        pitch: Degrees the camera is raised.
        extent: Width of the picture in units of the cube.
        shading: How much a head light darkens slanted texture, from 0 (the texture as it is) to 1.
        supersample: Samples per pixel and axis.

    Returns:
        [size, size, 4] uint8 RGBA, straight alpha.
    """
    right, up, toward = camera_axes(yaw, pitch)
    n = size * supersample
    vertices = mesh.vertices.astype(np.float64)
    columns = (vertices @ right / extent + 0.5) * n
    rows = (0.5 - vertices @ up / extent) * n
    # Faces turned away are hidden in a closed mesh.
    a, b, c = (np.stack([columns, rows], 1)[mesh.faces[:, i]] for i in range(3))
    turn = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    faces = mesh.faces[turn < 0]
    hit = rasterize(np.stack([columns, rows], 1), faces, n, n, vertices @ toward)
    covered = hit.face >= 0
    normals = hit.interpolate(mesh.normals, faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    facing = np.clip(normals @ toward, 0, 1)[:, None]
    if style == "texture":
        color = sample_texture(mesh.texture, hit.interpolate(mesh.uv, faces)) * (
            1 - shading + shading * facing
        )
    elif style == "clay":
        color = np.broadcast_to(40 + 190 * facing, normals.shape)
    elif style == "normal":
        color = (normals @ np.stack([right, up, toward], 1) * 0.5 + 0.5) * 255
    else:
        raise ValueError(f"A picture shows 'texture', 'clay' or 'normal', not {style!r}.")
    picture = np.zeros((n, n, 4), np.float32)
    picture[covered, :3] = color
    picture[covered, 3] = 1
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    straight = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
    rgba = np.concatenate([straight, small[..., 3:] * 255], axis=2)
    return np.clip(rgba + 0.5, 0, 255).astype(np.uint8)


def contact_sheet(
    mesh: TexturedMesh, yaws: tuple[float, ...] = (0, 90, 180, 270), size: int = 512, style: Style = "texture"
) -> np.ndarray:
    """Render a mesh from several yaws side by side on white, [size, len(yaws) * size, 3] uint8."""
    tiles = []
    for yaw in yaws:
        tile = render(mesh, yaw, size, style).astype(np.float32)
        alpha = tile[..., 3:] / 255
        tiles.append(tile[..., :3] * alpha + 255 * (1 - alpha))
    return (np.concatenate(tiles, axis=1) + 0.5).clip(0, 255).astype(np.uint8)


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Read a texture bilinearly at uv [n, 2]; [n, 3] float32 in 0..255."""
    height, width = texture.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip(uv[:, 1] * height - 0.5, 0, height - 1)
    x0 = np.minimum(x.astype(np.int64), width - 2)
    y0 = np.minimum(y.astype(np.int64), height - 2)
    fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
    top = texture[y0, x0] * (1 - fx) + texture[y0, x0 + 1] * fx
    bottom = texture[y0 + 1, x0] * (1 - fx) + texture[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy
