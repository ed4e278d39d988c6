"""The model turning once around itself: MP4 for everywhere, animated WebP for web pages."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.preview import EXTENT, backdrop, camera_axes, over, render

PITCH = 6.0  # degrees that the camera is raised
WORKERS = 2
MP4_FRAMES, MP4_RATE, MP4_SIZE = 72, 24, 512
WEBP_FRAMES, WEBP_RATE, WEBP_SIZE = 36, 12, 384
CRF = "18"  # constant quality of H.264; 18 looks lossless
WEBP_QUALITY = 80
SHADOW, SHADOW_REACH = 0.42, 0.10  # darkness; height above the ground from which on nothing throws one


def around(mesh: TexturedMesh, count: int, size: int) -> Iterator[np.ndarray]:
    """Yield `count` pictures [size, size, 4] uint8 RGBA of one turn, seen from the front first."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(
            lambda number: render(mesh, 360 * number / count, size, "shaded", pitch=PITCH), range(count)
        )


def frames(mesh: TexturedMesh, count: int, size: int) -> Iterator[np.ndarray]:
    """Yield the same turn on a ground with a shadow, [size, size, 3] uint8."""
    ground = backdrop(size)
    for number, picture in enumerate(around(mesh, count, size)):
        shade = contact_shadow(mesh, 360 * number / count, size)[..., None]
        yield over(picture, ground * (1 - shade))


def contact_shadow(mesh: TexturedMesh, yaw: float, size: int) -> np.ndarray:
    """Return how much darker the ground is around what stands on it, [size, size] float32 in 0..1."""
    right, up, _ = camera_axes(yaw, PITCH)
    points = mesh.vertices.astype(np.float64)
    floor = points[:, 2].min()
    weight = np.clip(1 - (points[:, 2] - floor) / SHADOW_REACH, 0, 1)
    points = np.concatenate([points[:, :2], np.full((len(points), 1), floor)], axis=1)
    columns = ((points @ right / EXTENT + 0.5) * size).astype(np.int64).clip(0, size - 1)
    rows = ((0.5 - points @ up / EXTENT) * size).astype(np.int64).clip(0, size - 1)
    near = np.zeros((size, size), np.float32)
    np.maximum.at(near, (rows, columns), weight.astype(np.float32))
    reach = max(size // 48, 1)
    filled = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, reach | 1)))
    return cv2.GaussianBlur(filled, (0, 0), size / 64, sigmaY=size / 160) * SHADOW


def to_mp4(mesh: TexturedMesh, count: int = MP4_FRAMES, size: int = MP4_SIZE) -> bytes:
    """Write a turntable as MP4: H.264, one turn in three seconds, playable while it loads.

    Args:
        mesh: The mesh.
        count: Pictures of a turn.
        size: Side in pixels, even.

    Raises:
        ValueError: The side is odd, which H.264 with halved colours cannot store.
    """
    import av

    if size % 2:
        raise ValueError(f"A film has an even number of pixels a side, not {size}.")
    # The index comes first, for which the file is opened a second time: it must have a name.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turntable.mp4"
        with av.open(path, "w", options={"movflags": "faststart"}) as film:
            stream = film.add_stream("libx264", rate=MP4_RATE, options={"crf": CRF, "preset": "medium"})
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            for picture in frames(mesh, count, size):
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            film.mux(stream.encode())
        return path.read_bytes()


def to_webp(mesh: TexturedMesh, count: int = WEBP_FRAMES, size: int = WEBP_SIZE) -> bytes:
    """Write a turntable as an animated WebP that runs forever; arguments as `to_mp4`."""
    first, *rest = (Image.fromarray(picture) for picture in frames(mesh, count, size))
    buffer = io.BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 / WEBP_RATE),
        loop=0,
        quality=WEBP_QUALITY,
        method=3,
    )
    return buffer.getvalue()
