"""The fine surface: from a decoder's features to a closed, decimated, coloured mesh."""

from __future__ import annotations

import numpy as np
import pytest
import surface_person
import torch
import trimesh
from conftest import quiet
from scipy.spatial import cKDTree
from surface_person import PATCH, TROUSERS

from synchuman.surface.build import build_fine, image_sources, texture_mesh
from synchuman.surface.decimate import decimate
from synchuman.surface.fine import fine_surface
from synchuman.surface.mesh import DenseMesh, TexturedMesh, is_watertight
from synchuman.surface.pinches import cut_pinches
from synchuman.surface.preview import render, sample_texture
from synchuman.surface.voxel_field import SDF

MM = 1700.0  # millimetres per unit of the cube, the person being 1.7 m tall


def sources() -> list:
    person = surface_person.make()
    return image_sources(person.colors, person.normals, person.photo)


@pytest.fixture(scope="module")
def dense() -> DenseMesh:
    return fine_surface(*surface_person.decoded(256), 256, quiet)


def merged(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """The mesh as a reader sees it that joins vertices at the same place."""
    return trimesh.Trimesh(vertices, faces)


def compare(vertices: np.ndarray, faces: np.ndarray, dense: DenseMesh) -> tuple[float, float]:
    """Mean distance in mm and mean angle in degrees of a decimated mesh to the dense one."""
    here, own = trimesh.sample.sample_surface(trimesh.Trimesh(vertices, faces, process=False), 5_000, seed=0)
    whole = trimesh.Trimesh(dense.vertices, dense.faces, process=False)
    there, face = trimesh.sample.sample_surface(whole, 400_000, seed=1)
    _, index = cKDTree(there).query(here)
    normal = whole.face_normals[face[index]]
    distance = np.abs(((here - there[index]) * normal).sum(1)).mean()
    own_normal = trimesh.Trimesh(vertices, faces, process=False).face_normals[own]
    return distance * MM, np.degrees(np.arccos(np.clip((normal * own_normal).sum(1), -1, 1))).mean()


def test_the_surface_is_closed_and_true(dense):
    assert is_watertight(dense.faces)
    mesh = merged(dense.vertices, dense.faces)
    assert mesh.is_watertight and mesh.body_count == 1 and mesh.volume > 0
    points = trimesh.sample.sample_surface(mesh, 5_000, seed=0)[0]
    assert np.abs(surface_person.make().sdf(points)).mean() * MM < 0.3


def test_the_decoders_colours_belong_to_their_vertices(dense):
    assert dense.colors is not None and dense.colors.dtype == np.uint8
    truth = surface_person.color(dense.vertices) * 255
    error = np.abs(dense.colors - truth).mean(1)
    # Colours are mixed within a cell where two materials meet.
    assert np.median(error) < 4 and np.percentile(error, 75) < 8


@pytest.mark.parametrize("count", [50_000, 8_000])
def test_decimated_it_stays_closed_and_close(dense, count):
    vertices, faces = decimate(dense.vertices, dense.faces, count)
    assert abs(len(faces) - count) < 0.01 * count
    assert is_watertight(faces) and merged(vertices, faces).is_watertight
    distance, angle = compare(vertices, faces, dense)
    assert distance < (0.1 if count == 50_000 else 0.6)
    assert angle < (2.5 if count == 50_000 else 6)


def test_holes_of_the_shell_and_floaters_are_mended():
    coords, feats = surface_person.decoded(128)
    rng = np.random.default_rng(0)
    keep = np.ones(len(coords), bool)
    keep[rng.choice(len(coords), 60, replace=False)] = False
    floater = torch.tensor([[0, x, y, z] for x in (5, 6) for y in (5, 6) for z in (100, 101)])
    speck = torch.zeros(8, 101)
    speck[:, SDF] = -0.01
    coords, feats = torch.cat([coords[keep], floater]), torch.cat([feats[keep], speck])
    dense = fine_surface(coords, feats, 128, quiet)
    mesh = merged(dense.vertices, dense.faces)
    assert mesh.is_watertight and mesh.body_count == 1
    truth = surface_person.make()
    assert mesh.volume == pytest.approx(trimesh.Trimesh(truth.vertices, truth.faces).volume, rel=0.05)


@pytest.fixture(scope="module")
def built() -> TexturedMesh:
    coords, feats = surface_person.decoded(128, gain=0.8)
    return build_fine(feats, coords, 128, sources(), 20_000, 1024, quiet)


def test_the_textured_mesh_is_closed(built):
    assert len(built.faces) == pytest.approx(20_000, rel=0.01)
    assert trimesh.Trimesh(built.vertices, built.faces).is_watertight


def at(picture: np.ndarray, x: float, z: float) -> np.ndarray:
    side = picture.shape[0]
    column, row = int((x / 1.05 + 0.5) * side), int((0.5 - z / 1.05) * side)
    return picture[row - 1 : row + 2, column - 1 : column + 2, :3].reshape(-1, 3).mean(0)


def test_images_win_where_they_see(built):
    assert np.abs(at(render(built, 0, 600), 0.0, 0.19) - PATCH * 255).max() < 5
    assert np.abs(at(render(built, 90, 600), 0.0, -0.2) - TROUSERS * 255).max() < 5


def facing(mesh: TexturedMesh, direction: tuple[float, float, float], **limits: float) -> np.ndarray:
    """Colours [n, 3] of the texture at the vertices that face a direction, below a height if one is given."""
    chosen = mesh.normals @ np.array(direction) > 0.95
    chosen &= mesh.vertices[:, 2] < limits.get("below", 1.0)
    return sample_texture(mesh.texture, mesh.uv[chosen]).astype(int)


def test_the_decoder_colours_what_no_image_shows():
    """No view sees the soles: the decoder's green comes through there, and nowhere that faces a camera."""
    dense = fine_surface(*surface_person.decoded(128), 128, quiet)
    green = np.tile(np.uint8([20, 160, 40]), (len(dense.vertices), 1))
    own, other = (
        texture_mesh(mesh, sources(), 20_000, 1024, quiet, torch.device("cpu"))
        for mesh in (dense, DenseMesh(dense.vertices, dense.faces, green))
    )
    soles, front, back = (0, 0, -1), (0, -1, 0), (0, 1, 0)
    change = np.abs(facing(own, soles, below=-0.48) - facing(other, soles, below=-0.48))
    assert np.median(change.max(1)) > 60
    for side in (front, back):
        assert np.percentile(np.abs(facing(own, side) - facing(other, side)).max(1), 95) < 10


def test_the_decoders_exposure_is_matched(built):
    """A decoder whose colours are a fifth too dark gives soles as light as the shoes."""
    soles = facing(built, (0, 0, -1), below=-0.48)
    assert np.abs(np.median(soles, axis=0) - surface_person.SHOE * 255).max() < 4


def test_nothing_inside_is_said():
    coords, feats = surface_person.decoded(128)
    empty = feats.clone()
    empty[:, SDF] = 1.0
    with pytest.raises(ValueError, match="no surface"):
        fine_surface(coords, empty, 128, quiet)
    empty[:, SDF] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        fine_surface(coords, empty, 128, quiet)


def boxes(*places: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    parts = [trimesh.creation.box((1, 1, 1)).apply_translation(place) for place in places]
    mesh = trimesh.util.concatenate(parts)
    mesh.merge_vertices()
    return mesh.vertices, mesh.faces


@pytest.mark.parametrize("inside_out", [False, True], ids=["solids", "cavities"])
@pytest.mark.parametrize(
    "places", [((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, 1))], ids=["sharing an edge", "sharing a corner"]
)
def test_touching_boxes_are_cut_apart(places, inside_out):
    vertices, faces = boxes(*places)
    faces = faces[:, ::-1] if inside_out else faces
    points, cut = cut_pinches(vertices, faces)
    assert is_watertight(cut) and merged(points, cut).is_watertight
    fans = trimesh.Trimesh(points, cut, process=False)
    assert abs(fans.volume) == pytest.approx(2, abs=1e-3)
    assert fans.is_winding_consistent


def test_two_faces_back_to_back_vanish():
    box = trimesh.creation.box((1, 1, 1))
    fin = np.array([[0, 1, 8], [1, 0, 8]])
    vertices = np.vstack([box.vertices, [[2, 0, 0]]])
    points, faces = cut_pinches(vertices, np.vstack([box.faces, fin]))
    assert len(faces) == 12 and len(points) == 8 and is_watertight(faces)
