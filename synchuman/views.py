"""Axes, view order and projections of the method, written once.

Space: the unit cube [-0.5, 0.5]^3 holds the person. x points to the right in the front view, y away from the
front camera, z up. Voxel (i, j, k) of a grid of n has its centre at ((i, j, k) + 0.5) / n - 0.5.

A *stored* view is an image as the networks see it: square, orthographic, extent 1 (the cube), row 0 on top.
Front and right are stored as a camera sees them; back and left are stored mirrored, seen through the body, so
that the column of a stored view always grows with the same axis as the front (x) or right (y) view.

Normals of every view are stored in the front camera's frame as (n_x, n_z, -n_y) * 0.5 + 0.5 on white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NUM_VIEWS = 5
NUM_BODY_VIEWS = 4
FRONT, RIGHT, BACK, LEFT, FACE = range(NUM_VIEWS)


@dataclass(frozen=True)
class View:
    """One of the five views.

    Attributes:
        name: Field's name of the view.
        column_axis: World axis (0 = x, 1 = y) that grows with the column of the stored image.
        toward_camera: Unit vector from the person to the camera, world axes.
        mirrored: Whether the stored image is the camera's image flipped left to right.
        prompt: Index of the view among the seven view prompts.
    """

    name: str
    column_axis: int
    toward_camera: tuple[float, float, float]
    mirrored: bool
    prompt: int


VIEWS: tuple[View, ...] = (
    View("front", 0, (0.0, -1.0, 0.0), False, 0),
    View("right", 1, (1.0, 0.0, 0.0), False, 2),
    View("back", 0, (0.0, 1.0, 0.0), True, 3),
    View("left", 1, (-1.0, 0.0, 0.0), True, 4),
    View("face", 0, (0.0, -1.0, 0.0), False, 6),
)

# The face view shows this part of the front view: columns and rows as fractions of the image's side.
FACE_COLUMNS = (1 / 3, 2 / 3)
FACE_ROWS = (0.0, 1 / 3)


def project(points: np.ndarray, view: int) -> np.ndarray:
    """Project world points orthographically into a stored view.

    Args:
        points: [..., 3] world coordinates in [-0.5, 0.5].
        view: FRONT, RIGHT, BACK, LEFT or FACE.

    Returns:
        [..., 2] (column, row) as fractions of the image side, 0 = left or top edge, 1 = right or bottom edge.
        Depth along the view is `points @ toward_camera` (larger is nearer).
    """
    import numpy as np

    columns = points[..., VIEWS[view].column_axis] + 0.5
    rows = 0.5 - points[..., 2]
    if view == FACE:
        columns = (columns - FACE_COLUMNS[0]) / (FACE_COLUMNS[1] - FACE_COLUMNS[0])
        rows = (rows - FACE_ROWS[0]) / (FACE_ROWS[1] - FACE_ROWS[0])
    return np.stack([columns, rows], axis=-1)
