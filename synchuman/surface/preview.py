"""Pictures of a surface without a display: orthographic, from any side, in several styles."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from synchuman.surface.lighting import lit, occlusion
from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.raster import Fragments, rasterize
from synchuman.views import FACE_COLUMNS, FACE_ROWS

# The texture as it is, the texture in soft light, grey clay, normals in the camera's frame, edges on clay.
Style = Literal["texture", "shaded", "clay", "normal", "wire"]
STYLES: tuple[Style, ...] = get_args(Style)
EXTENT = 1.05  # of the cube, as wide as a picture of the whole person
CLAY = np.array([205.0, 201.0, 196.0], np.float32)
EDGE = np.array([45.0, 60.0, 85.0], np.float32)
EDGE_WIDTH = 0.55  # pixels of the picture
# What the face view shows: its middle (x, z) in the cube, and its width.
FACE_CENTRE = ((FACE_COLUMNS[0] + FACE_COLUMNS[1]) / 2 - 0.5, 0.5 - (FACE_ROWS[0] + FACE_ROWS[1]) / 2)
FACE_EXTENT = FACE_COLUMNS[1] - FACE_COLUMNS[0]


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
    extent: float = EXTENT,
    centre: tuple[float, float] = (0.0, 0.0),
    supersample: int = 2,
) -> np.ndarray:
    """Render a mesh on transparent ground.

    Args:
        mesh: The mesh, in the z-up cube.
        yaw: Degrees around the person, see `camera_axes`.
        size: Side of the picture in pixels.
        style: One of `STYLES`.
        pitch: Degrees the camera is raised.
        extent: Width of the picture in units of the cube.
        centre: What is in the picture's middle, to the right and up in the camera's frame.
        supersample: Samples per pixel and axis.

    Returns:
        [size, size, 4] uint8 RGBA, straight alpha.

    Raises:
        ValueError: There is no such style.
    """
    if style not in STYLES:
        raise ValueError(f"A picture shows {', '.join(map(repr, STYLES))}, not {style!r}.")
    right, up, toward = camera_axes(yaw, pitch)
    n = size * supersample
    vertices = mesh.vertices.astype(np.float64)
    columns = ((vertices @ right - centre[0]) / extent + 0.5) * n
    rows = (0.5 - (vertices @ up - centre[1]) / extent) * n
    pixels = np.stack([columns, rows], 1)
    # Faces turned away are hidden in a closed mesh.
    a, b, c = (pixels[mesh.faces[:, i]] for i in range(3))
    turn = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    faces = mesh.faces[turn < 0]
    hit = rasterize(pixels, faces, n, n, vertices @ toward)
    covered = hit.face >= 0
    normals = hit.interpolate(mesh.normals, faces)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    normals = normals @ np.stack([right, up, toward], 1).astype(np.float32)
    if style == "normal":
        color = (normals * 0.5 + 0.5) * 255
    else:
        color = np.broadcast_to(CLAY, normals.shape)
        if style in ("texture", "shaded"):
            color = sample_texture(mesh.texture, hit.interpolate(mesh.uv, faces))
        if style != "texture":
            color = lit(color, normals, occlusion(hit.depth, n / extent)[covered])
        if style == "wire":
            near = _near_edge(hit, pixels, faces, EDGE_WIDTH * supersample)[:, None]
            color = color + (EDGE - color) * near
    picture = np.zeros((n, n, 4), np.float32)
    picture[covered, :3] = color
    picture[covered, 3] = 1
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    straight = small[..., :3] / np.maximum(small[..., 3:], 1e-6)
    rgba = np.concatenate([straight, small[..., 3:] * 255], axis=2)
    return np.clip(rgba + 0.5, 0, 255).astype(np.uint8)


def render_face(mesh: TexturedMesh, size: int = 512, style: Style = "texture") -> np.ndarray:
    """Render the part of the front that the face view shows; [size, size, 4] uint8 RGBA."""
    return render(mesh, 0.0, size, style, extent=FACE_EXTENT, centre=FACE_CENTRE)


def contact_sheet(
    mesh: TexturedMesh,
    styles: tuple[Style, ...] = ("shaded", "clay"),
    yaws: tuple[float, ...] = (0, 90, 180, 270),
    face: bool = True,
    size: int = 512,
) -> np.ndarray:
    """Render a mesh from several sides and its face, one row per style.

    Returns:
        [len(styles) * size, columns * size, 3] uint8 on a neutral background.
    """
    sheet = []
    for style in styles:
        tiles = [render(mesh, yaw, size, style) for yaw in yaws]
        if face:
            tiles.append(render_face(mesh, size, style))
        sheet.append(np.concatenate([over(tile, backdrop(size)) for tile in tiles], axis=1))
    return np.concatenate(sheet, axis=0)


def backdrop(size: int) -> np.ndarray:
    """Return a light grey that darkens a little downwards, [size, size, 3] float32."""
    shade = np.linspace(244, 222, size, dtype=np.float32)
    return np.broadcast_to(shade[:, None, None], (size, size, 3))


def over(rgba: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Lay a picture [h, w, 4] uint8 on a ground [h, w, 3]; [h, w, 3] uint8."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * alpha + ground * (1 - alpha)
    return (mixed + 0.5).clip(0, 255).astype(np.uint8)


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


def _near_edge(hit: Fragments, pixels: np.ndarray, faces: np.ndarray, width: float) -> np.ndarray:
    """How much of an edge `width` pixels to each side is at the covered pixels, [n] in 0..1."""
    corners = pixels[faces]
    sides = np.linalg.norm(np.roll(corners, -2, 1) - np.roll(corners, -1, 1), axis=2)  # opposite each corner
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    heights = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])[:, None] / np.maximum(sides, 1e-9)
    covered = hit.face >= 0
    second = hit.bary[covered]
    weight = np.concatenate([1 - second.sum(1, keepdims=True), second], axis=1)
    distance = (weight * heights[hit.face[covered]]).min(1)
    return np.clip(width + 0.5 - distance, 0, 1).astype(np.float32)
