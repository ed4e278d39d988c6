"""The coarse surface: closed, smooth, true to the shell it comes from, with outlines from the images."""

from __future__ import annotations

import fast_simplification
import numpy as np
import pytest
import surface_person
import trimesh
from conftest import quiet
from scipy import ndimage
from scipy.spatial import cKDTree

from synchuman.surface.build import latent_voxels
from synchuman.surface.cleaning import drop_floaters, drop_small_parts, fill_inside
from synchuman.surface.coarse import coarse_surface
from synchuman.surface.decimate import decimate
from synchuman.surface.mesh import DenseMesh, is_watertight
from synchuman.surface.sources import photo_source, view_sources

VOXEL = 1 / 64


def errors(vertices: np.ndarray, faces: np.ndarray) -> tuple[float, float, float]:
    """Mean distance to the truth and its sign (positive outside), in voxels, and the normals' consistency."""
    person = surface_person.make()
    truth = trimesh.Trimesh(person.vertices, person.faces, process=False)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    there, face = trimesh.sample.sample_surface(truth, 100_000, seed=1)
    here, own = trimesh.sample.sample_surface(mesh, 10_000, seed=2)
    distance, index = cKDTree(there).query(here)
    normals = truth.face_normals[face[index]]
    signed = ((here - there[index]) * normals).sum(1)
    straight = (normals * mesh.face_normals[own]).sum(1).mean()
    return distance.mean() / VOXEL, signed.mean() / VOXEL, straight


@pytest.fixture(scope="module")
def plain() -> tuple[np.ndarray, np.ndarray]:
    return coarse_surface(surface_person.make().logits, [], quiet)


def test_shell_alone_gives_a_smooth_closed_surface_in_place(plain):
    vertices, faces = plain
    assert is_watertight(faces)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.body_count == 1 and mesh.volume > 0
    distance, signed, straight = errors(vertices, faces)
    assert distance < 0.22  # of a voxel: half a voxel would be the shell's outer side
    assert abs(signed) < 0.15
    assert straight > 0.975  # steps of voxels give about 0.8


def test_images_sharpen_the_outline(plain):
    person = surface_person.make()
    sources = [photo_source(person.photo), *view_sources(person.colors, person.normals)]
    vertices, faces = coarse_surface(person.logits, sources, quiet)
    distance, signed, _ = errors(vertices, faces)
    assert distance < errors(*plain)[0]
    assert abs(signed) < 0.06
    assert is_watertight(faces)


def test_a_solid_and_a_shell_give_the_same_person(plain):
    person = surface_person.make()
    centres = (np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), -1) + 0.5) / 64 - 0.5
    inside = np.zeros((64, 64, 64), bool)
    near = np.abs(centres[..., 0]) < 0.3
    truth = trimesh.Trimesh(person.vertices, person.faces, process=False)
    inside[near] = truth.contains(centres[near])
    vertices, faces = coarse_surface(np.where(inside, 8.0, -8.0).astype(np.float32), [], quiet)
    distance, signed, _ = errors(vertices, faces)
    assert distance < 0.3 and abs(signed) < 0.2


def test_floaters_and_pinholes_leave_one_body():
    logits = surface_person.make().logits.copy()
    rng = np.random.default_rng(0)
    shell = np.argwhere(logits > 0)
    for x, y, z in shell[rng.choice(len(shell), 40, replace=False)]:
        logits[x, y, z] = -8
    for x, y, z in rng.integers(2, 62, (60, 3)):
        if not (logits[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3] > 0).any():
            logits[x, y, z] = 8
    logits[27:35, 34:40, 38:46] = np.minimum(logits[27:35, 34:40, 38:46], -8)  # a hole in the back
    vertices, faces = coarse_surface(logits, [], quiet)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.body_count == 1
    # With the outside let in, the trunk would be a hollow double wall.
    truth = trimesh.Trimesh(surface_person.make().vertices, surface_person.make().faces, process=False)
    assert mesh.volume > 0.85 * truth.volume


def test_gaps_between_limbs_stay_open(plain):
    mesh = trimesh.Trimesh(*plain, process=False)
    assert not mesh.contains(np.array([[0.0, 0.01, -0.3], [0.15, -0.01, 0.06], [-0.15, -0.01, 0.06]])).any()


def test_inside_of_a_punctured_box_is_filled_but_a_slit_is_not():
    box = np.zeros((24, 24, 24), bool)
    box[4:20, 4:20, 4:20] = True
    box[5:19, 5:19, 5:19] = False
    box[4:20, 4, 12] = False  # a slit one voxel wide lets an exact flood in
    box[12, 4:20, 19] = False
    filled = fill_inside(box)
    assert filled[5:19, 5:19, 5:19].all()
    plates = np.zeros((24, 24, 24), bool)
    plates[4:20, 8:10, 4:20] = plates[4:20, 12:14, 4:20] = True  # two plates with two voxels between
    assert not fill_inside(plates)[4:20, 10:12, 4:20].any()


def test_latents_live_on_a_closed_shell_whatever_gaps_the_structure_has():
    whole = surface_person.make().logits
    shell = whole > 0
    torn = np.where(np.random.default_rng(0).random(whole.shape) < 0.1, -5, whole).astype(np.float32)
    coarse = DenseMesh(*coarse_surface(torn, [], quiet))
    assert np.array_equal(latent_voxels(torn, coarse, "structure"), drop_small_parts(torn > 0))
    closed = latent_voxels(torn, coarse, "surface")
    lost = shell & ~(torn > 0)
    assert (closed & lost).sum() > 0.6 * lost.sum()
    away = ndimage.distance_transform_edt(~shell)
    assert away[closed].max() < 2.5


def test_a_person_that_touches_the_cube_is_closed():
    logits = np.full((64, 64, 64), -5, np.float32)
    logits[28:36, 28:36, :] = 5
    vertices, faces = coarse_surface(logits, [], quiet)
    assert is_watertight(faces)
    assert np.ptp(vertices[:, 2]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.full((8, 8, 8), -1, np.float32), "empty"),
        (np.full((8, 8, 8), np.nan, np.float32), "not finite"),
        (np.ones((8, 8), np.float32), "cube"),
    ],
)
def test_bad_structures_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        coarse_surface(logits, [], quiet)


def test_decimation_meets_its_count_and_stays_closed(plain):
    vertices, faces = decimate(*plain, 10_000)
    assert abs(len(faces) - 10_000) < 20
    assert is_watertight(faces)
    distance, _, _ = errors(vertices, faces)
    assert distance < errors(*plain)[0] + 0.05
    with pytest.raises(ValueError, match="at least 4"):
        decimate(*plain, 2)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_ragged_structure_stays_closed_at_every_count(scale):
    """Thin necks, which networks that are unsure give, are pressed together by decimation."""
    person = surface_person.make()
    rng = np.random.default_rng(3)
    ragged = ndimage.gaussian_filter(rng.normal(size=(64, 64, 64)), 1.2)
    near = ndimage.binary_dilation(person.logits > 0)
    logits = np.where(near, np.where(person.logits > 0, 1.0, -1.0) + 9 * ragged, -8.0)
    vertices, faces = coarse_surface(logits.astype(np.float32), [], quiet, scale)
    pressed = 0
    for count in (1_000, 2_000, 4_000, 8_000, 16_000, len(faces)):
        fewer, triangles = decimate(vertices, faces, count)
        assert is_watertight(triangles)
        assert trimesh.Trimesh(fewer, triangles).is_watertight  # also when equal places are joined
        assert len(triangles) <= 1.01 * count + 4
        raw = fast_simplification.simplify(vertices, faces, target_count=count, agg=3)[1]
        pressed += count < len(faces) and not is_watertight(raw)
    assert pressed  # otherwise this test would show nothing


def test_inner_walls_and_small_bodies_are_dropped():
    outer, inner = trimesh.creation.icosphere(4, 0.4), trimesh.creation.icosphere(3, 0.2)
    inner.invert()
    speck = trimesh.creation.box((0.02,) * 3).apply_translation((0.45, 0.45, 0.45))
    both = trimesh.util.concatenate([outer, inner, speck])
    vertices, faces = drop_floaters(both.vertices, both.faces)
    assert len(vertices) == len(outer.vertices) and len(faces) == len(outer.faces)
