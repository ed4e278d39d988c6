"""The structure carved from the views: far better than the hull of its outlines, near the true one."""

from __future__ import annotations

import numpy as np
import pytest
import surface_person
import trimesh
from conftest import quiet
from scipy.spatial import cKDTree

from synchuman.surface.build import image_sources
from synchuman.surface.carve import carve_structure
from synchuman.surface.coarse import coarse_surface

VOXEL = 1 / 64


def distance(logits: np.ndarray) -> float:
    """Chamfer distance of the coarse surface to the person, in voxels."""
    person = surface_person.make()
    mesh = trimesh.Trimesh(*coarse_surface(logits, [], quiet), process=False)
    truth = trimesh.Trimesh(person.vertices, person.faces, process=False)
    here, there = (trimesh.sample.sample_surface(m, 20_000, seed=1)[0] for m in (mesh, truth))
    return (cKDTree(here).query(there)[0].mean() + cKDTree(there).query(here)[0].mean()) / 2 / VOXEL


@pytest.fixture(scope="module")
def carved() -> np.ndarray:
    person = surface_person.make()
    return carve_structure(image_sources(person.colors, person.normals, person.photo), person.normals)


def test_carved_is_near_the_truth(carved):
    person = surface_person.make()
    assert carved.shape == (64, 64, 64) and carved.dtype == np.float32
    there, here = person.logits > 0, carved > 0
    assert (there & here).sum() / (there | here).sum() > 0.5
    front, side = there.any(1), there.any(0)
    hull = np.where(front[:, None] & side[None], 1.0, -1.0).astype(np.float32)
    assert distance(carved) < 0.6
    assert distance(carved) < 0.6 * distance(hull)


def test_empty_masks_are_said():
    person = surface_person.make()
    white = np.full_like(person.normals, 255)
    white[0] = person.normals[0]
    with pytest.raises(ValueError, match="side views"):
        carve_structure(image_sources(person.colors, white, person.photo), white)
