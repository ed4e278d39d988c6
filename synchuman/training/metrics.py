"""Figures of merit for surfaces, structures and views."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

BODY_HEIGHT_CM = 170.0
Nearest = tuple[np.ndarray, np.ndarray]  # distances, indices
ROUNDS = 20  # of closest points; more of them change less than a tenth of a millimetre


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points uniformly by area.

    Args:
        vertices: [V, 3].
        faces: [F, 3] integers.
        count: Points to draw.
        rng: Random source.

    Returns:
        Points [count, 3] and their unit face normals [count, 3].
    """
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    pick = rng.choice(len(faces), count, p=area / area.sum())
    u = rng.random((count, 2))
    fold = u.sum(axis=1) > 1
    u[fold] = 1 - u[fold]
    a, b, c = corners[pick, 0], corners[pick, 1], corners[pick, 2]
    points = a + u[:, :1] * (b - a) + u[:, 1:] * (c - a)
    return points, cross[pick] / np.maximum(area[pick, None], 1e-12)


def surface_errors(
    points: np.ndarray,
    normals: np.ndarray,
    true_points: np.ndarray,
    true_normals: np.ndarray,
    height: float,
) -> dict[str, float]:
    """Compare a surface with the true one, both as samples.

    Args:
        points: [N, 3] samples of the predicted surface, with unit `normals`.
        normals: [N, 3].
        true_points: [M, 3] samples of the true surface.
        true_normals: [M, 3].
        height: Height of the true person in the units of the points; errors are scaled to 1.7 m.

    Returns:
        `chamfer_cm` (mean of the two mean distances), `p2s_cm` (prediction to truth), `normal_consistency`
        (mean cosine at nearest points, both directions) and `chamfer_aligned_cm`, the first after the rigid
        motion that fits the surface best: what is left when the photo's tilt and the distance, which a
        cut-out does not tell, are taken out.
    """
    (to_true, near_true), (to_guess, near_guess) = nearest(points, true_points)
    (aligned_to_true, _), (aligned_to_guess, _) = nearest(rigidly_aligned(points, true_points), true_points)
    scale = BODY_HEIGHT_CM / height
    forward = (normals * true_normals[near_true]).sum(axis=1).mean()
    backward = (true_normals * normals[near_guess]).sum(axis=1).mean()
    return {
        "chamfer_cm": float((to_true.mean() + to_guess.mean()) / 2 * scale),
        "p2s_cm": float(to_true.mean() * scale),
        "normal_consistency": float((forward + backward) / 2),
        "chamfer_aligned_cm": float((aligned_to_true.mean() + aligned_to_guess.mean()) / 2 * scale),
    }


def nearest(points: np.ndarray, true_points: np.ndarray) -> tuple[Nearest, Nearest]:
    """Return distance and index of the nearest true point, [N] each, and the other way round, [M] each."""
    return cKDTree(true_points).query(points), cKDTree(points).query(true_points)


def rigidly_aligned(points: np.ndarray, true_points: np.ndarray) -> np.ndarray:
    """Turn and shift samples [N, 3] onto others [M, 3], size kept (ICP, Besl and McKay 1992)."""
    from trimesh.registration import icp

    options = {"reflection": False, "scale": False}
    return np.asarray(icp(points, true_points, threshold=1e-9, max_iterations=ROUNDS, **options)[1])


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two boolean arrays of one shape; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of two uint8 images."""
    error = float(np.mean((image.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return float(10 * np.log10(255.0**2 / max(error, 1e-10)))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the structural similarity of two uint8 [h, w, 3] images (Wang et al. 2004)."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(image, truth, channel_axis=-1, data_range=255))
