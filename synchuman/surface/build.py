"""From Stage 1 to a textured mesh: the surface room's one entry for the coarse surface."""

from __future__ import annotations

import logging

import numpy as np

from synchuman.surface.atlas import unwrap
from synchuman.surface.coarse import coarse_surface
from synchuman.surface.decimate import decimate
from synchuman.surface.mesh import Checkpoint, TexturedMesh, is_watertight, vertex_normals
from synchuman.surface.sources import Source, photo_source, view_sources
from synchuman.surface.texture import bake

LOGGER = logging.getLogger(__name__)

# Triangles that the extraction gives per voxel subdivision; more are asked for by finer cells.
_FINE_FACES = 40_000


def build_coarse(
    logits: np.ndarray,
    colors: np.ndarray,
    normals: np.ndarray,
    photo: np.ndarray,
    faces: int,
    texture_size: int,
    checkpoint: Checkpoint,
) -> TexturedMesh:
    """Build a textured mesh from the result of Stage 1.

    Args:
        logits: [64, 64, 64] float32 structure logits, indexed (x, y, z), > 0 where the surface is.
        colors: [5, s, s, 3] uint8 stored views.
        normals: [5, s, s, 3] uint8 stored normal views on white.
        photo: [h, w, 4] uint8 RGBA cut-out at the photo's own resolution, straight alpha.
        faces: Triangles wanted.
        texture_size: Side of the texture in texels.
        checkpoint: Called often as (stage, step, total); what it raises stops the work.

    Raises:
        ValueError: An input has a wrong shape or is empty; the message says what to do.
    """
    sources = [photo_source(photo), *view_sources(colors, normals)]
    scale = 2 if faces <= _FINE_FACES else 3
    vertices, triangles = coarse_surface(logits, sources, checkpoint, scale)
    return texture_mesh(vertices, triangles, sources, faces, texture_size, checkpoint)


def texture_mesh(
    vertices: np.ndarray,
    triangles: np.ndarray,
    sources: list[Source],
    faces: int,
    texture_size: int,
    checkpoint: Checkpoint,
) -> TexturedMesh:
    """Decimate a closed mesh in the cube and texture it; the way from any surface to a `TexturedMesh`.

    Args:
        vertices: [v, 3].
        triangles: [f, 3], counter-clockwise seen from outside.
        sources: Images to colour it from.
        faces: Triangles wanted.
        texture_size: Side of the texture in texels.
        checkpoint: Called often as (stage, step, total); what it raises stops the work.
    """
    vertices, triangles = decimate(vertices, triangles, faces)
    if not is_watertight(triangles):
        LOGGER.warning("The mesh of %d faces is not closed.", len(triangles))
    atlas = unwrap(vertices, triangles, texture_size, checkpoint)
    smooth = vertex_normals(vertices, triangles, smooth=3)
    texture = bake(vertices, triangles, smooth, atlas, sources, texture_size, checkpoint)
    shading = vertex_normals(vertices, triangles)
    return TexturedMesh(
        vertices[atlas.source], atlas.faces, atlas.uv, texture, shading[atlas.source].astype(np.float32)
    )
