"""From either stage to a textured mesh: the surface room's entries."""

from __future__ import annotations

import logging

import numpy as np
import torch

from synchuman.surface.atlas import unwrap
from synchuman.surface.cleaning import drop_small_parts
from synchuman.surface.coarse import coarse_surface
from synchuman.surface.decimate import decimate
from synchuman.surface.fine import fine_surface
from synchuman.surface.mesh import Checkpoint, DenseMesh, TexturedMesh, is_watertight, vertex_normals
from synchuman.surface.relief import Guides, with_relief
from synchuman.surface.sources import Source, photo_source, view_sources
from synchuman.surface.texture import bake
from synchuman.surface.voxelize import surface_voxels

LOGGER = logging.getLogger(__name__)

# Triangles that the extraction gives per voxel subdivision; more are asked for by finer cells.
_FINE_FACES = 40_000


def image_sources(colors: np.ndarray, normals: np.ndarray, photo: np.ndarray) -> list[Source]:
    """Make the images that a surface is shaped and coloured by.

    Args:
        colors: [5, s, s, 3] uint8 stored views.
        normals: [5, s, s, 3] uint8 stored normal views on white.
        photo: [h, w, 4] uint8 RGBA cut-out at the photo's own resolution, straight alpha.

    Raises:
        ValueError: An image has a wrong shape or is empty; the message says what to do.
    """
    return [photo_source(photo), *view_sources(colors, normals)]


def build_fine(
    features: torch.Tensor,
    coords: torch.Tensor,
    resolution: int,
    sources: list[Source],
    faces: int,
    texture_size: int,
    checkpoint: Checkpoint,
    guides: Guides | None = None,
) -> TexturedMesh:
    """Build a textured mesh from the result of Stage 2.

    Args:
        features: [n, 101] raw features of the mesh decoder; on their device the work is done.
        coords: [n, 4] integers (0, x, y, z).
        resolution: Cells along each side of the decoder's grid.
        sources: See `image_sources`.
        faces: Triangles wanted.
        texture_size: Side of the texture in texels.
        checkpoint: Called often as (stage, step, total); what it raises stops the work.
        guides: What else shapes the surface, if `Stage2Config.follow_normals` says so.

    Raises:
        ValueError: The features are malformed or hold no surface; the message says what to do.
    """
    dense = with_relief(lambda part: fine_surface(coords, features, resolution, part), guides, checkpoint)
    return texture_mesh(dense, sources, faces, texture_size, checkpoint, features.device)


def coarse_mesh(logits: np.ndarray, sources: list[Source], faces: int, checkpoint: Checkpoint) -> DenseMesh:
    """Extract Stage 1's surface, fine enough for that many faces.

    Args:
        logits: [64, 64, 64] float32 structure logits, indexed (x, y, z), > 0 where the surface is.
        sources: See `image_sources`.
        faces: Triangles wanted.
        checkpoint: Called often as (stage, step, total); what it raises stops the work.

    Raises:
        ValueError: The structure is malformed or empty; the message says what to do.
    """
    scale = 2 if faces <= _FINE_FACES else 3
    return DenseMesh(*coarse_surface(logits, sources, checkpoint, scale))


def latent_voxels(logits: np.ndarray, coarse: DenseMesh, at: str) -> np.ndarray:
    """Choose the voxels at which Stage 2's latents live.

    Args:
        logits: See `coarse_mesh`.
        coarse: What `coarse_mesh` gave.
        at: See `Stage2Config.latents_at`.

    Returns:
        [64, 64, 64] bool.
    """
    if at == "structure":
        return drop_small_parts(logits > 0)
    vertices, faces = torch.from_numpy(coarse.vertices), torch.from_numpy(coarse.faces)
    return surface_voxels(vertices, faces, len(logits)).numpy()


def texture_mesh(
    dense: DenseMesh,
    sources: list[Source],
    faces: int,
    texture_size: int,
    checkpoint: Checkpoint,
    device: torch.device,
) -> TexturedMesh:
    """Decimate a surface and texture it; the way from any surface to a `TexturedMesh`.

    Args:
        dense: Closed, in the cube; its colours serve where no image shows it.
        sources: See `image_sources`.
        faces: Triangles wanted.
        texture_size: Side of the texture in texels.
        checkpoint: Called often as (stage, step, total); what it raises stops the work.
        device: Where charts are found and texels coloured; the result is the same up to rounding. If its
            memory runs out, the CPU does it, with a warning in the log.
    """
    vertices, triangles = decimate(dense.vertices, dense.faces, faces)
    if not is_watertight(triangles):
        LOGGER.warning("The mesh of %d faces is not closed.", len(triangles))
    try:
        return _textured(vertices, triangles, dense, sources, texture_size, checkpoint, device)
    except torch.OutOfMemoryError as error:
        reason = str(error)
    # Outside of the handler, where the error would still hold what the first try had in memory.
    LOGGER.warning("%s ran out of memory; the CPU does the texture (%s)", device, reason)
    cpu = torch.device("cpu")
    return _textured(vertices, triangles, dense, sources, texture_size, checkpoint, cpu)


def _textured(
    vertices: np.ndarray,
    triangles: np.ndarray,
    dense: DenseMesh,
    sources: list[Source],
    texture_size: int,
    checkpoint: Checkpoint,
    device: torch.device,
) -> TexturedMesh:
    """Unwrap a decimated surface and colour it."""
    atlas = unwrap(vertices, triangles, texture_size, checkpoint, device)
    smooth = vertex_normals(vertices, triangles, smooth=3)
    texture = bake(vertices, triangles, smooth, atlas, sources, texture_size, checkpoint, device, dense)
    shading = vertex_normals(vertices, triangles)
    return TexturedMesh(
        vertices[atlas.source], atlas.faces, atlas.uv, texture, shading[atlas.source].astype(np.float32)
    )
