"""A person of capsules with analytic colours: the truth that the surface tests compare with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from skimage.measure import marching_cubes

from synchuman.surface.build import coarse_mesh, image_sources, texture_mesh
from synchuman.surface.dual_marching_cubes import CORNERS
from synchuman.surface.mesh import TexturedMesh, vertex_normals
from synchuman.surface.raster import rasterize
from synchuman.surface.voxel_field import COLOR, SDF
from synchuman.views import FACE, FACE_COLUMNS, FACE_ROWS, VIEWS

# from, to, radius at both ends; x right, y away from the front camera, z up
LIMBS = np.array(
    [
        [0, 0.0, 0.42, 0, 0.0, 0.42, 0.075],  # head
        [0, 0.0, 0.30, 0, 0.0, 0.38, 0.04],  # neck
        [-0.07, 0, 0.27, 0.07, 0, 0.27, 0.055],  # shoulders
        [0, 0.0, 0.05, 0, 0.0, 0.22, 0.10],  # trunk
        [-0.04, 0, 0.0, 0.04, 0, 0.0, 0.085],  # hip
        [-0.12, 0, 0.27, -0.19, 0.01, 0.10, 0.036],
        [-0.19, 0.01, 0.10, -0.23, -0.03, -0.06, 0.028],
        [0.12, 0, 0.27, 0.19, 0.01, 0.10, 0.036],
        [0.19, 0.01, 0.10, 0.23, -0.03, -0.06, 0.028],
        [-0.065, 0, -0.02, -0.085, 0.01, -0.24, 0.058],
        [-0.085, 0.01, -0.24, -0.095, 0.02, -0.45, 0.04],
        [0.065, 0, -0.02, 0.085, 0.01, -0.24, 0.058],
        [0.085, 0.01, -0.24, 0.095, 0.02, -0.45, 0.04],
        [-0.095, 0.02, -0.465, -0.10, -0.06, -0.465, 0.033],
        [0.095, 0.02, -0.465, 0.10, -0.06, -0.465, 0.033],
    ]
)
SKIN, SHIRT, TROUSERS, SHOE, HAIR, PATCH = (
    np.array(c, np.float32) / 255
    for c in ((205, 160, 135), (60, 95, 170), (70, 62, 58), (30, 28, 30), (60, 40, 25), (200, 40, 50))
)


def sdf(points: np.ndarray) -> np.ndarray:
    field = None
    for limb in LIMBS:
        a, b, radius = limb[:3], limb[3:6], limb[6]
        along = b - a
        t = np.clip((points - a) @ along / max(along @ along, 1e-9), 0, 1)
        distance = np.linalg.norm(points - a - t[..., None] * along, axis=-1) - radius
        field = distance if field is None else -np.logaddexp(-distance * 90, -field * 90) / 90
    return field


def color(points: np.ndarray) -> np.ndarray:
    """Colours in 0..1: hair behind, stripes on the shirt, a red patch on the breast, a green one on the back."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    out = np.broadcast_to(SHIRT, points.shape).copy()
    out[np.sin(z * 160) > 0.5] *= 0.75
    out[(np.abs(x) < 0.045) & (np.abs(z - 0.19) < 0.03)] = PATCH
    out[(np.abs(x) < 0.06) & (np.abs(z - 0.17) < 0.05) & (y > 0)] = (0.2, 0.6, 0.25)
    out[(z < 0.02) & (np.abs(x) < 0.165)] = TROUSERS
    out[z < -0.435] = SHOE
    out[(z > 0.335) | ((np.abs(x) > 0.165) & (z < 0.1))] = SKIN
    out[(z > 0.40) & (y > -0.01) | (z > 0.46)] = HAIR
    for side in (-1, 1):
        out[(np.hypot(x - side * 0.026, z - 0.43) < 0.009) & (y < -0.02)] = (0.1, 0.15, 0.3)
    out[(np.abs(x) < 0.025) & (np.abs(z - 0.39) < 0.006) & (y < -0.02)] = (0.6, 0.2, 0.2)
    return out


@dataclass(frozen=True)
class Person:
    logits: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    photo: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray
    middle: np.ndarray
    height: float

    def sdf(self, points: np.ndarray) -> np.ndarray:
        """The signed distance in the cube, negative inside."""
        return sdf(points * self.height + self.middle) / self.height


def shell(vertices: np.ndarray, faces: np.ndarray, n: int = 64) -> np.ndarray:
    """Voxels [n, n, n] bool that the surface touches."""
    rng = np.random.default_rng(0)
    grid = np.zeros((n, n, n), bool)
    for _ in range(12):
        weight = rng.dirichlet(np.ones(3), len(faces))
        points = np.einsum("fkc,fk->fc", vertices[faces], weight)
        grid[tuple(np.clip(((points + 0.5) * n).astype(int), 0, n - 1).T)] = True
    return grid


def draw(
    vertices: np.ndarray, faces: np.ndarray, view: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours, normals (both float on white) and alpha of a stored view, antialiased."""
    zoom, ss = (3 if view == FACE else 1), 3 if size < 600 else 2
    n = size * ss
    spec = VIEWS[view]
    left, top = (FACE_COLUMNS[0], FACE_ROWS[0]) if view == FACE else (0, 0)
    columns = (vertices[:, spec.column_axis] + 0.5 - left) * zoom * n
    rows = (0.5 - vertices[:, 2] - top) * zoom * n
    hit = rasterize(np.stack([columns, rows], 1), faces, n, n, vertices @ np.array(spec.toward_camera))
    covered = hit.face >= 0
    points = hit.interpolate(vertices, faces)
    normal = hit.interpolate(vertex_normals(vertices, faces), faces)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    stored = np.stack([normal[:, 0], normal[:, 2], -normal[:, 1]], 1) * 0.5 + 0.5
    picture = np.zeros((n, n, 7), np.float32)
    picture[covered] = np.concatenate([color(points), stored, np.ones((len(points), 1))], 1)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    alpha = small[..., 6:]
    return small[..., :3] + 1 - alpha, small[..., 3:6] + 1 - alpha, alpha


@lru_cache(maxsize=2)
def make(size: int = 192, photo_size: int = 1000) -> Person:
    n = 128
    axes = [np.arange(int(-e * n), int(e * n) + 1) / n for e in (0.3, 0.2, 0.54)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    vertices, faces, _, _ = marching_cubes(sdf(grid), 0, gradient_direction="descent")
    vertices = vertices / n + [a[0] for a in axes]
    middle = (vertices.max(0) + vertices.min(0)) / 2
    middle[:2] = 0
    height = np.ptp(vertices[:, 2])
    vertices = (vertices - middle) / height
    faces = faces.astype(np.int64)
    views = [draw(vertices, faces, v, size) for v in range(5)]
    colors = np.stack([np.clip(v[0] * 255 + 0.5, 0, 255).astype(np.uint8) for v in views])
    normals = np.stack([np.clip(v[1] * 255 + 0.5, 0, 255).astype(np.uint8) for v in views])
    front, _, alpha = draw(vertices, faces, 0, photo_size)
    straight = (front - (1 - alpha)) / np.maximum(alpha, 1e-3)
    # Behind the person is magenta, and the edge of the cut-out is mixed with it, as in a real photo.
    mixed = straight * alpha + np.array([1, 0, 1]) * (1 - alpha)
    photo = np.concatenate([mixed, alpha], -1)
    photo = np.pad(photo, ((40, 60), (25, 90), (0, 0)))
    logits = np.where(shell(vertices, faces), 8.0, -8.0).astype(np.float32)
    cutout = np.clip(photo * 255 + 0.5, 0, 255).astype(np.uint8)
    return Person(logits, colors, normals, cutout, vertices, faces, middle, height)


@lru_cache(maxsize=2)
def decoded(resolution: int = 128, gain: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What a perfect mesh decoder would give: coords [n, 4] and features [n, 101] of the shell's voxels.

    The colours are the true ones times a gain.
    """
    person = make()
    parents = np.argwhere(person.logits > 0)
    per_axis = resolution // 64
    children = np.stack(np.meshgrid(*[np.arange(per_axis)] * 3, indexing="ij"), -1).reshape(-1, 3)
    voxels = (parents[:, None] * per_axis + children).reshape(-1, 3)
    corners = (voxels[:, None] + np.array(CORNERS)) / resolution - 0.5
    feats = np.zeros((len(voxels), 101), np.float32)
    feats[:, SDF] = person.sdf(corners) + 1 / resolution
    rgb = np.clip(color(corners) * gain, 0.01, 0.99)
    feats[:, COLOR].reshape(-1, 8, 6)[..., :3] = np.log(rgb / (1 - rgb))
    return torch.from_numpy(np.pad(voxels, ((0, 0), (1, 0)))), torch.from_numpy(feats)


def textured(
    logits: np.ndarray, images: tuple[np.ndarray, np.ndarray, np.ndarray], faces: int, size: int, checkpoint
) -> TexturedMesh:
    """Build the coarse surface of a structure, textured from (colors, normals, photo)."""
    sources = image_sources(*images)
    dense = coarse_mesh(logits, sources, faces, checkpoint)
    return texture_mesh(dense, sources, faces, size, checkpoint, torch.device("cpu"))


@lru_cache(maxsize=1)
def built() -> TexturedMesh:
    """The person's coarse surface, 12,000 faces and a texture of 1024 texels, built once for all tests."""
    person = make()
    images = person.colors, person.normals, person.photo
    return textured(person.logits, images, 12_000, 1024, lambda *progress: None)
