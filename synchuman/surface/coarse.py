"""A smooth closed surface from the structure logits of Stage 1, with its outline from the images."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from synchuman.surface.cleaning import drop_floaters, drop_small_parts, fill_inside
from synchuman.surface.mesh import Checkpoint
from synchuman.surface.sources import Source, signed_outline
from synchuman.views import FACE, VIEWS

PAD = 5  # empty voxels around the voxels, so that the surface closes and no filter meets the border
SMOOTHINGS = 12
SMOOTHING_SIGMA = 0.8  # voxels
SOLID_SHARE = 0.1  # of the voxels lie deep inside when the structure is a solid rather than a shell
OUTLINE_LIMIT = {
    True: 2.0,
    False: 1.0,
}  # voxels that the photo (True) or a generated view may move the outline
OUTLINE_BAND = 2.5  # voxels around the outline of the surface in which an image may move it
NEAREST = 1e-3  # voxels that the surface keeps away from grid points
OUTLINE_DEPTH = 3.0  # voxels from the rim over which its move fades


def coarse_surface(
    logits: np.ndarray, sources: list[Source], checkpoint: Checkpoint, scale: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Extract the person's surface from the structure.

    Args:
        logits: [n, n, n] float32, > 0 in the voxels that touch the surface (or that are solid).
        sources: Images whose masks sharpen the outline; may be empty. The photo wins over the front view.
        checkpoint: Called between the steps with the stage "surface".
        scale: Cells of the extraction per voxel and axis.

    Returns:
        Vertices [v, 3] float32 in the cube and faces [f, 3] int32 of a closed mesh, counter-clockwise.

    Raises:
        ValueError: The logits are not a finite cube, or hold no voxel.
    """
    if logits.ndim != 3 or len(set(logits.shape)) != 1:
        raise ValueError(f"The structure must be a cube [n, n, n] of logits, not {list(logits.shape)}.")
    if not np.isfinite(logits).all():
        raise ValueError("The structure has logits that are not finite; sample it again.")
    if not (logits > 0).any():
        raise ValueError("The structure is empty: no logit is above 0; sample it again, with more steps.")
    n = logits.shape[0]
    checkpoint("surface", 0, 6)
    occupied, origin = _cropped(logits > 0)
    solid = drop_small_parts(fill_inside(occupied))
    occupied &= solid
    checkpoint("surface", 1, 6)
    field = smooth_field(solid, occupied)
    checkpoint("surface", 2, 6)
    field = _upsample(field, scale)
    centres = [((np.arange(cells) + 0.5) / scale + low) / n - 0.5 for cells, low in zip(field.shape, origin)]
    for axis in (0, 1):
        outline = _outline(sources, axis, centres, n)
        if outline is not None:
            move_outline(field, outline[0], 1 - axis, outline[1])
    checkpoint("surface", 3, 6)
    field = ndimage.gaussian_filter(field, 0.5 * scale / 2)
    # Through a grid point of distance zero pass several edges, each with its own vertex at the same place.
    field = np.where(np.abs(field) < NEAREST, np.copysign(NEAREST, field), field)
    vertices, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="descent")
    checkpoint("surface", 4, 6)
    vertices, faces = drop_floaters(vertices, faces)
    vertices = ((vertices + 0.5) / scale + origin) / n - 0.5
    checkpoint("surface", 5, 6)
    return vertices.astype(np.float32), faces


def smooth_field(solid: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    """Find the smoothest signed distance that agrees with the voxels.

    A plane touches a voxel when it passes its centre within a = (|n_x| + |n_y| + |n_z|) / 2 voxels. So the
    distance is known to lie within [-a, a] in shell voxels, above a outside and below -a inside. Smoothing
    and clamping to these bounds in turn leaves no steps, needs no guess of where in its voxels the surface
    lies and does not melt thin limbs (Gibson, Constrained Elastic Surface Nets, 1998, does so to meshes).

    Args:
        solid: [a, b, c] bool, the shell with its inside filled.
        occupied: [a, b, c] bool, the shell, or the solid itself.

    Returns:
        [a, b, c] float32 signed distance in voxels, negative inside, cut at some voxels from the surface.
    """
    depth = ndimage.distance_transform_edt(solid)
    away = ndimage.distance_transform_edt(~solid)
    steps = np.where(solid, 0.5 - depth, away - 0.5)
    shape = ndimage.gaussian_filter(steps, 1.5)
    gradient = np.stack(np.gradient(shape))
    length = np.linalg.norm(gradient, axis=0)
    reach = 0.5 * np.abs(gradient).sum(0) / np.maximum(length, 1e-6)
    reach = np.clip(np.where(length > 0.2, reach, 0.5), 0.5, 0.87)
    is_shell = (occupied & (depth > 2.5)).sum() < SOLID_SHARE * occupied.sum()
    if is_shell:
        shell = occupied
        high = np.where(shell, reach, -reach)
        low = np.where(shell, -reach, -np.inf)
        # Where the shell fills a limb, its middle must stay inside: a body w voxels wide is w - 1 in truth.
        ridge = shell & (depth >= ndimage.maximum_filter(depth, 3) - 0.25)
        high = np.where(ridge, np.minimum(high, 0.25 - 0.5 * depth), high)
        low = np.minimum(low, high)
        start = steps + reach
    else:
        high = np.where(solid, -0.1, np.inf)
        low = np.full(solid.shape, -np.inf)
        start = steps
    high = np.where(solid, high, 4.0)
    low = np.where(solid, np.maximum(low, -4.0), reach if is_shell else 0.1)
    low, high = low.astype(np.float32), high.astype(np.float32)
    field = np.clip(start, low, high).astype(np.float32)
    for _ in range(SMOOTHINGS):
        once = ndimage.gaussian_filter(field, SMOOTHING_SIGMA)
        # 2 G - G G keeps curved parts where they are; G alone would shrink them onto their bounds.
        field = np.clip(2 * once - ndimage.gaussian_filter(once, SMOOTHING_SIGMA), low, high)
    return field


def move_outline(field: np.ndarray, outline: np.ndarray, axis: int, limit: float) -> None:
    """Move a field, in place, so that its silhouette along an axis meets an outline.

    Only the rim is moved: columns that graze the surface, and in them the part near their deepest point. A
    silhouette that is far off is followed up to the limit alone, so that views may disagree.

    Args:
        field: [a, b, c] signed distance in voxels, negative inside.
        outline: Signed distance of the silhouette in voxels, of the field's shape without `axis`.
        axis: Axis the silhouette looks along, 0 or 1.
        limit: Largest move in voxels.
    """
    deepest = field.min(axis=axis)
    grazing = np.clip(OUTLINE_BAND + 0.5 - np.abs(deepest), 0, 1)
    move = np.clip(outline - deepest, -limit, limit) * grazing
    move, deepest = np.expand_dims(move, axis), np.expand_dims(deepest, axis)
    field += move * np.clip(1 - (field - deepest) / OUTLINE_DEPTH, 0, 1)


def _cropped(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop a grid to its voxels and some empty ones around them.

    Args:
        occupied: [n, n, n] bool with at least one voxel.

    Returns:
        [a, b, c] bool, and the index [3] in the grid of its first voxel, negative outside of the grid.
    """
    places = np.argwhere(occupied)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = occupied[tuple(slice(first, last) for first, last in zip(low, high))]
    return np.pad(box, PAD), low - PAD


def _outline(
    sources: list[Source], axis: int, centres: list[np.ndarray], n: int
) -> tuple[np.ndarray, float] | None:
    """The outline in voxels seen along an axis and how far it may move the surface; None without images."""
    seen = [s for s in sources if s.view != FACE and VIEWS[s.view].column_axis == axis and s.mask.any()]
    photo = any(s.photo for s in seen)
    if photo:
        seen = [s for s in seen if s.photo]
    if not seen:
        return None
    outlines = [signed_outline(s, centres[axis], centres[2]) * n for s in seen]
    return np.mean(outlines, axis=0), OUTLINE_LIMIT[photo]


def _upsample(field: np.ndarray, scale: int) -> np.ndarray:
    """Upsample a field by cubic splines, cell centres kept."""
    # Splines are separable and linear: one small matrix for every axis does what the zoom of the field takes
    # thirty times as long for.
    for cells in field.shape:
        weights = ndimage.zoom(np.eye(cells), (scale, 1), order=3, mode="nearest", grid_mode=True)
        # The axis that is done goes last.
        field = np.tensordot(field, weights.astype(field.dtype), axes=(0, 1))
    return field
