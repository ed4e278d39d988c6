"""A closed, coloured surface from the features of Stage 2."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from synchuman.surface.cleaning import drop_floaters
from synchuman.surface.flexicubes import extract_field
from synchuman.surface.grid_fill import fill_hidden
from synchuman.surface.mesh import Checkpoint, DenseMesh, is_watertight
from synchuman.surface.pinches import cut_pinches
from synchuman.surface.voxel_field import average_field

_STEPS = 5


@torch.inference_mode()
def fine_surface(
    coords: torch.Tensor, feats: torch.Tensor, resolution: int, checkpoint: Checkpoint
) -> DenseMesh:
    """Extract the person's surface from the mesh decoder's features.

    Args:
        coords: [n, 4] integers (0, x, y, z) in [0, resolution), in any order.
        feats: [n, 101] raw features, on the same device.
        resolution: Cells along each side of the decoder's grid.
        checkpoint: Called between the steps with the stage "surface".

    Returns:
        The watertight surface with the decoder's colours.

    Raises:
        ValueError: The features are malformed or not finite, or hold no surface.
    """
    checkpoint("surface", 0, _STEPS)
    field = average_field(coords, feats, resolution)
    checkpoint("surface", 1, _STEPS)
    field = fill_hidden(field)
    checkpoint("surface", 2, _STEPS)
    if not bool((field.sdf < 0).any()):
        raise ValueError("Stage 2 found no surface: nothing is inside. Sample it again, with more steps.")
    mesh = extract_field(field)
    checkpoint("surface", 3, _STEPS)
    before = mesh.vertices.cpu().numpy()
    colors = (mesh.colors[:, :3] * 255).round().to(torch.uint8).cpu().numpy()
    vertices, faces = drop_floaters(before, mesh.faces.cpu().numpy().astype(np.int32))
    checkpoint("surface", 4, _STEPS)
    if not is_watertight(faces):
        vertices, faces = cut_pinches(vertices, faces)
    # Cleaning renumbers vertices and moves a few by next to nothing: the nearest one is the one it was.
    _, index = cKDTree(before).query(vertices)
    checkpoint("surface", _STEPS, _STEPS)
    return DenseMesh(vertices.astype(np.float32), faces, colors[index])
