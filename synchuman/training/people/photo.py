"""The input photo of a person: perspective camera, light and shadow, lens and sensor, imperfect cut-out."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synchuman.training.people.fabrics import colours
from synchuman.training.people.views import Scene, facing
from synchuman.training.render import rasterize

SHADOW_SIDE = 384


@dataclass(frozen=True)
class Shot:
    """How a photo is taken. Angles in radians; `focal` as on 35 mm film (36 mm wide), in mm.

    Attributes:
        key: Unit vector toward the main light; `softness` 0 is hard light.
        key_share: Share of the light that comes from the main light.
        fill: [4, 3] first-order spherical harmonics of the rest (constant, x, y, z).
        gain: [3] exposure and white balance.
        blur: Gaussian sigma in pixels at 768; `noise` standard deviation; `quality` of the JPEG.
        matte: Strength of cut-out errors, 0 to 1.
    """

    focal: float
    pitch: float
    roll: float
    key: tuple[float, float, float]
    softness: float
    key_share: float
    fill: np.ndarray
    gain: np.ndarray
    gamma: float
    blur: float
    noise: float
    quality: int
    matte: float


def draw_shot(rng: np.random.Generator) -> Shot:
    """Draw a camera, its light and its flaws."""
    azimuth, height = rng.uniform(-2.2, 2.2), rng.uniform(0.2, 1.3)
    key = (math.sin(azimuth) * math.cos(height), -math.cos(azimuth) * math.cos(height), math.sin(height))
    fill = rng.normal(0, 0.04, (4, 3)) + rng.normal(0, 0.12, (4, 1))
    fill[0] = 1.0
    fill[3] += 0.12
    exposure, warmth = rng.normal(1.0, 0.12), rng.normal(0, 0.05)
    return Shot(
        focal=float(np.exp(rng.uniform(np.log(25), np.log(85)))),
        pitch=float(np.clip(rng.normal(0, 0.08), -0.18, 0.18)),
        roll=float(np.clip(rng.normal(0, 0.025), -0.09, 0.09)),
        key=key,
        softness=float(rng.uniform(0, 1)),
        key_share=float(rng.beta(2, 3) * 0.75),
        fill=fill,
        gain=np.clip(exposure * np.array([1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth]), 0.7, 1.35),
        gamma=float(rng.normal(1.0, 0.07)),
        blur=float(abs(rng.normal(0, 0.7))),
        noise=float(abs(rng.normal(0, 0.012))),
        quality=int(rng.integers(45, 97)),
        matte=float(rng.beta(1, 3)),
    )


def camera_points(vertices: Tensor, shot: Shot) -> Tensor:
    """Project vertices [V, 3] of the unit cube: [V, 3] (right, down, 1 / distance), to be fitted to an image.

    The camera stands as far away as its lens needs to fill two thirds of the film with the person.
    """
    distance = 1.5 * shot.focal / 36 + 0.5
    cosine, sine = math.cos(shot.pitch), math.sin(shot.pitch)
    right = vertices.new_tensor([1.0, 0.0, 0.0])
    forward = vertices.new_tensor([0.0, cosine, -sine])
    up = vertices.new_tensor([0.0, sine, cosine])
    x, z = vertices @ right, vertices @ up
    rolled_x = math.cos(shot.roll) * x - math.sin(shot.roll) * z
    rolled_z = math.sin(shot.roll) * x + math.cos(shot.roll) * z
    depth = (vertices @ forward + distance).clamp(min=0.05)
    scale = distance / depth
    return torch.stack([rolled_x * scale, -rolled_z * scale, 1 / depth], dim=1)


def fit_to_square(points: Tensor, triangles: Tensor, side: int) -> Tensor:
    """Shift and scale projected points so that what is drawn touches both borders of a `side` square."""
    seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    seen[triangles.flatten().long()] = True
    low, high = points[seen, :2].amin(0), points[seen, :2].amax(0)
    scale = side / (high - low).amax()
    return torch.cat([(points[:, :2] - (low + high) / 2) * scale + side / 2, points[:, 2:]], dim=1)


def shadow(scene: Scene, positions: Tensor, shot: Shot) -> Tensor:
    """Share [N] of the main light that reaches surface positions [N, 3]: depth map, softly filtered."""
    toward = torch.nn.functional.normalize(scene.vertices.new_tensor(shot.key), dim=0)
    side_axis = torch.nn.functional.normalize(
        torch.linalg.cross(toward.new_tensor([0.0, 0.0, 1.0]), toward), dim=0
    )
    up_axis = torch.linalg.cross(toward, side_axis)
    axes = torch.stack([side_axis, up_axis, toward], dim=1)

    def project(points: Tensor) -> Tensor:
        local = points @ axes
        return torch.cat([(local[:, :2] / 1.8 + 0.5) * SHADOW_SIDE, local[:, 2:]], dim=1)

    hits = rasterize(project(scene.vertices), scene.triangles, SHADOW_SIDE, SHADOW_SIDE)[0]
    depth = torch.full((SHADOW_SIDE * SHADOW_SIDE,), -10.0, device=positions.device)
    depth[hits.pixels] = hits.depths
    at = project(positions)
    reach = 0.8 + 4.0 * shot.softness
    lit = torch.zeros(len(positions), device=positions.device)
    taps = [(math.cos(2.4 * i) * math.sqrt(i / 9), math.sin(2.4 * i) * math.sqrt(i / 9)) for i in range(9)]
    for dx, dy in taps:
        column = (at[:, 0] + dx * reach).long().clamp(0, SHADOW_SIDE - 1)
        row = (at[:, 1] + dy * reach).long().clamp(0, SHADOW_SIDE - 1)
        lit += (depth[row * SHADOW_SIDE + column] < at[:, 2] + 0.015).float()
    return lit / len(taps)


def render_photo(scene: Scene, shot: Shot, side: int, supersampling: int = 1) -> np.ndarray:
    """The person as the camera sees it, cut out exactly: float32 RGBA [side, side, 4], straight alpha."""
    full = side * supersampling
    points = fit_to_square(camera_points(scene.vertices, shot), scene.triangles, full)
    hits = rasterize(points, scene.triangles, full, full)[0]
    triangles = scene.triangles.long()
    # Perspective-correct weights: 1 / distance is linear on the screen.
    inverse = points[:, 2][triangles[hits.faces]] * hits.weights
    hits.weights = inverse / inverse.sum(1, keepdim=True)
    person = scene.person
    positions = hits.interpolate(scene.vertices, triangles)
    eye = positions.new_tensor([0.0, -math.cos(shot.pitch), math.sin(shot.pitch)])
    normals = facing(hits.interpolate(scene.normals, triangles), eye)
    identity = person.identity[triangles[hits.faces, 0]]
    albedo = colours(person.materials, identity, hits.interpolate(person.reference, triangles))
    ambient = hits.interpolate(scene.occlusion[:, None], triangles)
    fill = torch.from_numpy(shot.fill).to(albedo)
    around = (fill[0] + normals @ fill[1:]).clamp(min=0.1) * ambient
    key = normals.new_tensor(shot.key)
    cosine = ((normals @ key + 0.3 * shot.softness) / (1 + 0.3 * shot.softness)).clamp(min=0)
    direct = (cosine * shadow(scene, positions, shot))[:, None]
    lit = albedo * (around * (1 - shot.key_share) + 1.75 * direct * shot.key_share)
    half = torch.nn.functional.normalize(key + eye, dim=0)
    gloss = torch.tensor([material.gloss for material in person.materials]).to(albedo)[identity]
    lit = lit + (gloss * shot.key_share * 2 * direct[:, 0] * (normals @ half).clamp(min=0) ** 24)[:, None]
    lit = (lit * torch.from_numpy(shot.gain).to(albedo)).clamp(1e-4, 1) ** shot.gamma
    canvas = torch.zeros(full * full, 4, device=lit.device)
    canvas[hits.pixels] = torch.cat([lit, torch.ones_like(lit[:, :1])], dim=1)
    canvas = canvas.view(side, supersampling, side, supersampling, 4).mean((1, 3)).cpu()
    alpha = canvas[..., 3:]
    return torch.cat([canvas[..., :3] / alpha.clamp(min=1e-3), alpha], dim=-1).float().numpy()


def degrade(photo: np.ndarray, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """Lens, sensor, JPEG and cut-out errors: float RGBA [s, s, 4] to uint8 RGBA of the same size."""
    side = photo.shape[0]
    alpha = np.ascontiguousarray(photo[..., 3])
    # A plain backdrop shows through wherever the cut-out is too generous.
    backdrop = rng.uniform(0.1, 0.95, 3).astype(np.float32)
    colour = photo[..., :3] * alpha[..., None] + backdrop * (1 - alpha[..., None])
    sigma = shot.blur * side / 768
    if sigma > 0.2:
        colour = cv2.GaussianBlur(colour, (0, 0), sigma)
        alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
    colour = colour + rng.normal(0, shot.noise, colour.shape)
    encoded = io.BytesIO()
    Image.fromarray((colour.clip(0, 1) * 255).astype(np.uint8)).save(encoded, "JPEG", quality=shot.quality)
    colour8 = np.asarray(Image.open(encoded))
    if shot.matte > 0.15:
        reach = int(rng.integers(1, 2 + round(3 * shot.matte * side / 576)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        alpha = cv2.erode(alpha, kernel) if rng.random() < 0.6 else cv2.dilate(alpha, kernel)
        wobble = cv2.resize(
            rng.normal(0, 1, (24, 24)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        alpha = (
            np.where(wobble > 2.7 - 0.7 * shot.matte, alpha * 0.3, alpha) if rng.random() < 0.25 else alpha
        )
        alpha = cv2.GaussianBlur(alpha, (0, 0), 0.5 + shot.matte * side / 576)
    alpha8 = (alpha.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    alpha8[alpha8 < 8] = 0
    return np.dstack([colour8, alpha8])
