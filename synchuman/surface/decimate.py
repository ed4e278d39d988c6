"""Fewer triangles for the same shape, by quadric edge collapse."""

from __future__ import annotations

import fast_simplification
import numpy as np

from synchuman.surface.cleaning import drop_floaters
from synchuman.surface.pinches import cut_pinches

# How fast the error bound rises: 2 is five times as exact as the library's 7, but may end above the count.
AGGRESSIONS = (2.0, 3.0, 5.0, 7.0)
ENOUGH = 1.01  # of the count
SPECK = 1e-3  # share of the faces of a part that collapsing pinched off


def decimate(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a mesh to about `count` triangles; one that has no more than that is returned as it is.

    A closed mesh stays watertight: what the collapses press together is cut apart again.

    Args:
        vertices: [v, 3].
        faces: [f, 3].
        count: Triangles wanted, at least 4.

    Returns:
        Vertices [v', 3] float32 and faces [f', 3] int32.
    """
    if count < 4:
        raise ValueError(f"A closed mesh has at least 4 faces, not {count}; choose a larger number of faces.")
    if len(faces) <= count:
        return np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    for aggression in AGGRESSIONS:
        vertices, faces = fast_simplification.simplify(
            np.ascontiguousarray(vertices, np.float32),
            np.ascontiguousarray(faces, np.int32),
            target_count=count,
            agg=aggression,
        )
        if len(faces) <= ENOUGH * count:
            break
    vertices, faces = drop_floaters(*cut_pinches(vertices, faces), SPECK)
    return np.asarray(vertices, np.float32), faces
