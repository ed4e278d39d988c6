"""Measure a variant on people that training never saw: its coarse and its fine surface, and two baselines."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synchuman.events import Progress
from synchuman.settings import Settings
from synchuman.stage1.stage1 import Stage1, Stage1Result
from synchuman.stage2.stage2 import Stage2, Stage2Result
from synchuman.steps import carve_views
from synchuman.surface.build import build_fine, coarse_mesh, image_sources, latent_voxels, texture_mesh
from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.preview import render
from synchuman.surface.relief import Guides
from synchuman.surface.voxelize import surface_voxels
from synchuman.training.baselines import fit_to_front, hull_of_front
from synchuman.training.metrics import intersection_over_union, psnr, sample_surface, ssim, surface_errors
from synchuman.training.people.person import BODY_FILE, FIRST_EVALUATION_SEED, make_person, open_studio
from synchuman.training.people.photo import degrade, draw_shot, render_photo
from synchuman.training.people.sample import PHOTO_SALT
from synchuman.training.people.views import place, render_views
from synchuman.views import FRONT, NUM_BODY_VIEWS, VIEWS

LOGGER = logging.getLogger(__name__)
POINTS = 20_000
PHOTO_SIDE = 768
RAYS = 48


@dataclass(frozen=True)
class Subject:
    """One held-out person with everything that is true about it.

    Attributes:
        photo: [s, s, 4] uint8 cut-out, with the flaws of a real one.
        colors: [5, v, v, 3] uint8 true views.
        occupancy: [64, 64, 64] bool, voxels that the surface touches.
        points: [n, 3] samples of the surface that can be seen from outside, in the cube.
        normals: [n, 3] their unit normals.
        height: Standing height in the cube's units, whatever the pose.
        mask: [s, s] bool, true front silhouette.
    """

    photo: np.ndarray
    colors: np.ndarray
    occupancy: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    height: float
    mask: np.ndarray


@torch.inference_mode()
def make_subject(seed: int, view_size: int, body_file: Path = BODY_FILE) -> Subject:
    """Make the held-out person of a seed (at least `FIRST_EVALUATION_SEED`)."""
    if seed < FIRST_EVALUATION_SEED:
        raise ValueError(f"Seed {seed} is a training seed; evaluation starts at {FIRST_EVALUATION_SEED}.")
    rng = np.random.default_rng([seed, PHOTO_SALT])
    shot = draw_shot(rng)
    person = make_person(seed, "cpu", body_file)
    scene = place(person)
    gain = torch.from_numpy(shot.gain).to(scene.vertices)
    colors, _ = render_views(scene, view_size, gain)
    photo = degrade(render_photo(scene, shot, PHOTO_SIDE), shot, rng)
    vertices, faces = scene.vertices.numpy(), scene.triangles.numpy()
    points, normals = sample_surface(vertices, faces, 2 * POINTS, np.random.default_rng(seed))
    seen, outward = visible_from_outside(vertices, faces, points, normals)
    rest, _ = open_studio(body_file, "cpu").body.rest_shape(person.phenotypes)
    per_metre = float(np.ptp(vertices[:, 2]) / np.ptp(person.vertices[:, 2].numpy()))
    height = float(np.ptp(rest[:, 2].numpy())) * per_metre
    mask = (colors[FRONT] < 250).any(axis=-1)
    return Subject(photo, colors, scene.occupancy.numpy(), points[seen], outward[seen], height, mask)


def visible_from_outside(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which surface points can be seen from outside; garments have layers that nobody sees.

    Returns:
        [N] bool, and the normals [N, 3] turned to the side from which a point is seen.
    """
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    index = np.arange(RAYS) + 0.5
    z = 1 - 2 * index / RAYS
    angle = np.pi * (1 + 5**0.5) * index  # Fibonacci sphere
    ring = np.sqrt(1 - z**2)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    seen = np.zeros(len(points), bool)
    votes = np.zeros(len(points))
    for direction in directions:
        origins = points + 2e-4 * direction
        free = ~mesh.ray.intersects_any(origins, np.broadcast_to(direction, origins.shape))
        seen |= free
        votes += free * np.sign(normals @ direction)
    return seen, normals * np.where(votes < 0, -1.0, 1.0)[:, None]


def measure_mesh(
    subject: Subject, vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """Return the surface errors and the shell IoU at 64^3 of a mesh in the cube."""
    points, normals = sample_surface(vertices, faces, POINTS, rng)
    errors = surface_errors(points, normals, subject.points, subject.normals, subject.height)
    shell = surface_voxels(torch.from_numpy(vertices).float(), torch.from_numpy(faces.astype(np.int32)), 64)
    return {**errors, "iou_64": intersection_over_union(shell.numpy(), subject.occupancy)}


def render_body_views(mesh: TexturedMesh, size: int) -> np.ndarray:
    """Return a textured mesh as the four stored body views show it, on white; uint8 [4, size, size, 3]."""
    views = []
    for number, view in enumerate(VIEWS[:NUM_BODY_VIEWS]):
        picture = render(mesh, 90.0 * number, size, extent=1.0).astype(np.float32)
        alpha = picture[..., 3:] / 255
        flat = picture[..., :3] * alpha + 255 * (1 - alpha)
        views.append(flat[:, ::-1] if view.mirrored else flat)
    return (np.stack(views) + 0.5).astype(np.uint8)


def measure_textured(subject: Subject, mesh: TexturedMesh) -> dict[str, float]:
    """Return what `measure_mesh` does and the PSNR of the mesh's renders against the true body views."""
    figures = measure_mesh(subject, mesh.vertices, mesh.faces, np.random.default_rng(0))
    renders = render_body_views(mesh, subject.colors.shape[1])
    figures["render_psnr_db"] = float(np.mean([psnr(r, c) for r, c in zip(renders, subject.colors)]))
    return figures


def measure_variant(
    stage1: Stage1, stage2: Stage2 | None, subject: Subject, settings: Settings
) -> dict[str, dict[str, float]]:
    """Run a variant on a subject's photo and measure its surfaces.

    Returns:
        The figures of `variant`, the surface that users get, with those of the views and the structure; with
        Stage 2 also those of `variant_coarse`, the surface of Stage 1 alone.
    """
    first = next(
        event
        for event in stage1.sample(
            subject.photo, settings.stage1_steps, settings.guidance, settings.seed, solver=settings.solver
        )
        if isinstance(event, Stage1Result)
    )
    views = first.colors, first.normals
    size = settings.faces, settings.texture_size
    logits = first.structure_logits
    if logits is None:
        logits = carve_views(subject.photo, *views)
    sources = image_sources(*views, subject.photo)
    coarse = coarse_mesh(logits, sources, settings.faces, _quiet)
    rows = {"variant": measure_textured(subject, texture_mesh(coarse, sources, *size, _quiet, stage1.device))}
    if stage2 is not None:
        fine = next(
            event
            for event in stage2.sample(
                *views, subject.photo, latent_voxels(logits, coarse, stage2.config.latents_at),
                settings.stage2_steps, settings.stage2_guidance, settings.seed, settings.solver,
            )
            if isinstance(event, Stage2Result)
        )  # fmt: skip
        guides = Guides(first.normals, coarse) if stage2.config.follow_normals else None
        decoded = fine.feats, fine.coords, fine.resolution
        mesh = build_fine(*decoded, sources, *size, checkpoint=_quiet, guides=guides)
        rows = {"variant_coarse": rows["variant"], "variant": measure_textured(subject, mesh)}
    pairs = list(zip(first.colors[:NUM_BODY_VIEWS], subject.colors))
    rows["variant"] |= {
        "structure_iou_64": intersection_over_union(logits > 0, subject.occupancy),
        "view_psnr_db": float(np.mean([psnr(*pair) for pair in pairs])),
        "view_ssim": float(np.mean([ssim(*pair) for pair in pairs])),
    }
    return rows


def _quiet(stage: str, step: int, total: int) -> None:
    """Hear of a step and go on."""


def mean_body(body_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the average body in rest pose: vertices [V, 3] and faces [F, 3]."""
    from synchuman.training.people.cages import triangulate

    body = open_studio(body_file, "cpu").body
    faces = triangulate(body.quads["body"])
    used, faces = np.unique(faces, return_inverse=True)
    return body.reference.numpy()[used].astype(np.float64), faces.reshape(-1, 3)


def evaluate(
    variant: Path,
    count: int,
    settings: Settings,
    body_file: Path = BODY_FILE,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda event: None,
) -> dict[str, dict[str, float]]:
    """Return mean figures of the rows of `measure_variant`, `hull` and `mean_body`.

    The Chamfer distance comes also as median and worst. `report` hears of every person, as stage "people".

    Raises:
        FileNotFoundError: The variant or the body is not there; the message names the cure.
    """
    stage1 = Stage1.load(variant, device)
    stage2 = Stage2.load(variant, stage1.networks.image_encoder, device)
    body_vertices, body_faces = mean_body(body_file)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(count):
        report(Progress("people", number, count))
        subject = make_subject(FIRST_EVALUATION_SEED + number, stage1.config.image_size, body_file)
        rng = np.random.default_rng(number)
        for row, figures in measure_variant(stage1, stage2, subject, settings).items():
            rows[row].append(figures)
        rows["hull"].append(measure_mesh(subject, *hull_of_front(subject.mask), rng))
        fitted = fit_to_front(body_vertices, body_faces, subject.mask)
        rows["mean_body"].append(measure_mesh(subject, fitted, body_faces, rng))
        LOGGER.info("%d of %d: %s", number + 1, count, {k: r[-1]["chamfer_cm"] for k, r in rows.items()})
    report(Progress("people", count, count))
    summary = {}
    for method, measured in rows.items():
        summary[method] = {key: float(np.mean([row[key] for row in measured])) for key in measured[0]}
        chamfer = [row["chamfer_cm"] for row in measured]
        summary[method]["chamfer_cm_median"] = float(np.median(chamfer))
        summary[method]["chamfer_cm_worst"] = float(np.max(chamfer))
    return summary
