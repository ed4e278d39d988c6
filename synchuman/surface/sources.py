"""The images a surface is carved and coloured from: the photo at its own resolution and the views."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from synchuman.views import FACE, FACE_COLUMNS, NUM_VIEWS, VIEWS, project

# A pixel of a normal image is background when all its channels are at least this bright.
BACKGROUND = 230
# The outline of the photo's alpha.
HALF_ALPHA = 128
# A generated mask holds every pixel with a trace of the person: it is this many pixels too wide all around.
MASK_EXCESS = 0.35
# Masks have steps of a pixel; distances to them are smoothed by this much, in units of the cube.
OUTLINE_SIGMA = 0.005


@dataclass(frozen=True)
class Source:
    """One image that shows the person orthographically.

    Attributes:
        view: Its view among `synchuman.views.VIEWS`; the photo is a FRONT one.
        image: [h, w, 3] uint8 colours.
        mask: [h, w] bool, the person.
        scale: Pixels per unit of the cube.
        offset: (column, row) in pixels of the point that a stored view shows at fraction (0, 0) of the body.
        photo: Whether this is the photo itself rather than a generated view.
    """

    view: int
    image: np.ndarray
    mask: np.ndarray
    scale: float
    offset: tuple[float, float]
    photo: bool = False

    @property
    def direction(self) -> np.ndarray:
        """Unit vector from the person to the camera, [3]."""
        return np.asarray(VIEWS[self.view].toward_camera, np.float32)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Project points [..., 3] to (column, row) in pixels; (0, 0) is the image's top left corner."""
        body = _body_view(self.view)
        return project(points, body) * self.scale + np.asarray(self.offset)


def view_sources(colors: np.ndarray, normals: np.ndarray) -> list[Source]:
    """Make the sources of the five stored views.

    Args:
        colors: [5, s, s, 3] uint8.
        normals: [5, s, s, 3] uint8 on a white background; they give the masks.

    Raises:
        ValueError: The arrays are not five square uint8 images of one size.
    """
    for name, images in (("colors", colors), ("normals", normals)):
        good = images.ndim == 4 and images.shape[0] == NUM_VIEWS and images.shape[3] == 3
        if not good or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
            raise ValueError(f"{name} must be uint8 [5, s, s, 3], not {images.dtype} {list(images.shape)}.")
    if colors.shape != normals.shape:
        raise ValueError(f"colors {list(colors.shape)} and normals {list(normals.shape)} differ in size.")
    side = colors.shape[1]
    sources = []
    for view in range(NUM_VIEWS):
        mask = (normals[view] < BACKGROUND).any(axis=-1)
        zoom = 1 / (FACE_COLUMNS[1] - FACE_COLUMNS[0]) if view == FACE else 1.0
        offset = (-FACE_COLUMNS[0] * zoom * side, 0.0) if view == FACE else (0.0, 0.0)
        sources.append(Source(view, colors[view], mask, side * zoom, offset))
    return sources


def photo_source(photo: np.ndarray) -> Source:
    """Make the source of the photo: the longest side of its alpha's bounding box spans the cube.

    The box is the one of `synchuman.photo.framing`, without its last row and column.

    Args:
        photo: [h, w, 4] uint8, straight alpha.

    Raises:
        ValueError: The photo is not RGBA or nothing in it is opaque.
    """
    if photo.ndim != 3 or photo.shape[2] != 4 or photo.dtype != np.uint8:
        raise ValueError(f"The photo must be uint8 [h, w, 4], not {photo.dtype} {list(photo.shape)}.")
    rows, columns = np.nonzero(photo[..., 3])
    if not len(rows):
        raise ValueError("The photo's alpha is empty: nobody is cut out; cut the person out first.")
    left, right = int(columns.min()), int(columns.max())
    top, bottom = int(rows.min()), int(rows.max())
    length = max(right - left, bottom - top, 1)
    offset = ((left + right - length) / 2, (top + bottom - length) / 2)
    return Source(0, photo[..., :3], photo[..., 3] >= HALF_ALPHA, float(length), offset, photo=True)


def signed_outline(source: Source, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distance to the outline of a source's mask, negative inside, in units of the cube.

    Args:
        source: A body view or the photo.
        columns: [c] world coordinates along the view's column axis.
        rows: [r] world heights z.

    Returns:
        [c, r] float32.
    """
    # The margin is background: a person that touches the border of the image ends there.
    pad = max(source.mask.shape) // 8 + 2
    mask = np.pad(source.mask, pad).astype(np.uint8)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    distance = np.where(mask > 0, 0.5 - inside, outside - 0.5).astype(np.float32)
    if not source.photo:
        distance += MASK_EXCESS
    x = (columns + 0.5) * source.scale + source.offset[0] + pad - 0.5
    y = (0.5 - rows) * source.scale + source.offset[1] + pad - 0.5
    grid_x, grid_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32), indexing="ij")
    # Distances are smooth: bilinear reading keeps the resolution of the image, not of the grid.
    smooth = cv2.GaussianBlur(distance, (0, 0), OUTLINE_SIGMA * source.scale)
    read = cv2.remap(smooth, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return read / source.scale


def _body_view(view: int) -> int:
    """The body view whose projection a source scales: the face view is a part of the front view."""
    return 0 if view == FACE else view
