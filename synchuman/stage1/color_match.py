"""Colours of generated views brought to those of the photo, which is what the front view should show."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from synchuman.views import BACK, FACE, FACE_ROWS, FRONT, LEFT, RIGHT

CELL = 0.08  # of the grid over colours and heights: in [0, 1], and in shares of the image's side
SIGMA = 1.0  # cells
DOUBT = 0.5  # pixels per cell, after smoothing, that "leave it as it is" counts for
PERSON = 0.97  # of white; darker pixels belong to the person
BORDER = 2  # pixels along the outline that are mixed with white
AXES = 4  # red, green, blue, height


def match_colors(generated: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Correct the hue of the views by what the front view got wrong.

    An image autoencoder of few channels shifts saturated colours, in all views alike. In the front view the
    right colour of every pixel is known; a pixel of another view is corrected as those of the front are that
    look alike and are about as high. The error is a smooth function on a bilateral grid (Chen, Paris and
    Durand 2007) over colour and height, with a prior at zero where the front shows nothing of the kind.

    Args:
        generated: float32 [5, s, s, 3] in [0, 1], the colour views as decoded, the front one included.
        canvas: float32 [s, s, 3] in [0, 1], the photo in the front view's frame.

    Returns:
        The views [5, s, s, 3] in [0, 1]; the front one as it was given.
    """
    result = generated.copy()
    grid = _error_grid(generated[FRONT], canvas)
    for view in (RIGHT, BACK, LEFT):
        result[view] = _corrected(generated[view], grid, (0.0, 1.0))
    result[FACE] = _corrected(generated[FACE], grid, FACE_ROWS)
    return result


def _error_grid(seen: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Average what is wrong by colour and height from above: [cells, cells, cells, cells, 3]."""
    cells = int(1 / CELL) + 2
    rows, columns = np.nonzero(_inner(seen) & _inner(true))
    at = _positions(seen[rows, columns], rows / len(seen))
    error = true[rows, columns] - seen[rows, columns]
    sums = np.zeros((4, cells**AXES), np.float32)
    low = np.floor(at).astype(int)
    for corner in np.ndindex(*(2,) * AXES):  # every pixel is shared among the cells around it
        share = np.abs(1 - np.array(corner) - (at - low)).prod(axis=1)
        index = np.ravel_multi_index(tuple((low + corner).T), (cells,) * AXES)
        for channel, values in enumerate((share, *(share[:, None] * error).T)):
            sums[channel] += np.bincount(index, values, cells**AXES)
    weight, *errors = (
        ndimage.gaussian_filter(channel.reshape((cells,) * AXES), SIGMA, truncate=2.5) for channel in sums
    )
    return np.stack(errors, axis=-1) / (weight + DOUBT)[..., None]


def _corrected(image: np.ndarray, grid: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Correct a view whose rows span that part of the front view's."""
    inner = _inner(image)
    if not inner.any():
        return image
    rows, columns = np.nonzero(inner)
    heights = span[0] + rows / len(image) * (span[1] - span[0])
    at = _positions(image[rows, columns], heights).T
    error = np.zeros_like(image)
    for channel in range(3):
        error[rows, columns, channel] = ndimage.map_coordinates(grid[..., channel], at, order=1)
    # Along the outline colours are mixed with white: there the error further in holds in part.
    nearest = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    dark, whole = 1 - image.min(axis=-1), 1 - image.min(axis=-1)[tuple(nearest)]
    share = np.where(inner, 1, np.clip(dark / np.maximum(whole, 1e-3), 0, 1)) * _person(image)
    return np.clip(image + share[..., None] * error[tuple(nearest)], 0, 1)


def _positions(colors: np.ndarray, heights: np.ndarray) -> np.ndarray:
    return np.column_stack([colors, heights]).clip(0, 1) / CELL


def _person(image: np.ndarray) -> np.ndarray:
    return np.any(image < PERSON, axis=-1)


def _inner(image: np.ndarray) -> np.ndarray:
    return ndimage.binary_erosion(_person(image), iterations=BORDER, border_value=1)
