"""What a trained model must beat: the extruded front silhouette and a mean body fitted to it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from synchuman.training.people.views import middle

GRID = 128
# Depth over height of a standing clothed adult with feet; the hull of one silhouette has none of its own.
HULL_DEPTH = 0.2


def hull_of_front(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extrude a front silhouette along the view to a fixed depth.

    Args:
        mask: [s, s] bool, the stored front view's silhouette.

    Returns:
        Vertices [V, 3] in the cube and faces [F, 3].

    Raises:
        ValueError: The silhouette is empty.
    """
    if not mask.any():
        raise ValueError("The silhouette is empty: nothing to extrude.")
    index = ((np.arange(GRID) + 0.5) / GRID * len(mask)).astype(int)
    front = mask[::-1][np.ix_(index, index)].T  # [x, z]
    depth = np.abs((np.arange(GRID) + 0.5) / GRID - 0.5) < HULL_DEPTH / 2
    solid = front[:, None, :] & depth[None, :, None]
    padded = np.pad(gaussian_filter(solid.astype(np.float32), 0.7), 1)
    vertices, faces, _, _ = marching_cubes(padded, 0.5)
    return (vertices - 0.5) / GRID - 0.5, faces[:, ::-1]


def fit_to_front(vertices: np.ndarray, faces: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scale and shift a body so that its front bounding box is the silhouette's; depth scales with height.

    Along the depth the surface's mean is at 0, as it is with the people measured.

    Args:
        vertices: [V, 3] of a mean body, z up.
        faces: [F, 3] of it.
        mask: [s, s] bool, the stored front view's silhouette.

    Returns:
        The fitted vertices [V, 3].
    """
    rows, columns = np.nonzero(mask)
    size = len(mask)
    low = np.array([columns.min() / size - 0.5, 0.0, 0.5 - (rows.max() + 1) / size])
    high = np.array([(columns.max() + 1) / size - 0.5, 0.0, 0.5 - rows.min() / size])
    extent = np.ptp(vertices, axis=0)
    scale = (high - low) / extent
    scale[1] = scale[2]
    centred = (vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2) * scale
    fitted = centred + (low + high) / 2
    points = torch.from_numpy(fitted)
    depth = points[:, 1]
    depth -= middle(points, torch.from_numpy(faces), depth.amin(), depth.amax(), points.new_tensor(1.0))
    return fitted
