"""A lumpy surface takes its relief from normal views, and stays closed and where it is."""

import dataclasses

import numpy as np
import pytest
import trimesh

from synchuman.surface.mesh import DenseMesh, is_watertight, vertex_normals
from synchuman.surface.relief import Guides, follow_normals, split, with_relief
from synchuman.surface.settle import settle
from synchuman.views import FACE, FACE_COLUMNS, FACE_ROWS, NUM_VIEWS, VIEWS

AXES = np.array([0.2, 0.15, 0.45])  # of an ellipsoid
SIDE = 192
calls: list[tuple[str, int, int]] = []


def checkpoint(stage: str, step: int, total: int) -> None:
    """Remember the call."""
    calls.append((stage, step, total))


@pytest.fixture(scope="module")
def normals() -> np.ndarray:
    """Normal views of the ellipsoid, as they are stored."""
    views = np.full((NUM_VIEWS, SIDE, SIDE, 3), 255, np.uint8)
    for number, view in enumerate(VIEWS):
        fraction = (np.arange(SIDE) + 0.5) / SIDE
        columns = rows = fraction
        if number == FACE:
            columns = FACE_COLUMNS[0] + fraction * (FACE_COLUMNS[1] - FACE_COLUMNS[0])
            rows = FACE_ROWS[0] + fraction * (FACE_ROWS[1] - FACE_ROWS[0])
        along, height = np.meshgrid(columns - 0.5, 0.5 - rows)
        axis = view.column_axis
        other = 1 - axis
        rest = 1 - (along / AXES[axis]) ** 2 - (height / AXES[2]) ** 2
        point = np.zeros((SIDE, SIDE, 3))
        point[..., axis], point[..., 2] = along, height
        point[..., other] = np.sqrt(np.clip(rest, 0, None)) * AXES[other] * view.toward_camera[other]
        unit = point / AXES**2
        unit /= np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-9)
        stored = np.stack([unit[..., 0], unit[..., 2], -unit[..., 1]], 2) * 127.5 + 127.5
        views[number] = np.where((rest > 0)[..., None], np.round(stored), 255)
    return views


def lumpy() -> DenseMesh:
    """The ellipsoid with lumps of 6 mm at 1.7 m."""
    ball = trimesh.creation.icosphere(5)
    points = np.asarray(ball.vertices) * AXES
    lumps = (
        0.0035
        * np.sin(points @ np.array([90.0, 70.0, 80.0]))
        * np.cos(points @ np.array([-60.0, 90.0, 50.0]))
    )
    unit = points / AXES**2
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    colors = (127 * (unit + 1)).astype(np.uint8)
    return DenseMesh((points + lumps[:, None] * unit).astype(np.float32), ball.faces.astype(np.int32), colors)


def errors(mesh: DenseMesh) -> tuple[float, float]:
    """Mean angle to the ellipsoid's normals in degrees, and mean distance from it in its smallest half-axis."""
    true = mesh.vertices / AXES**2
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    cosine = (vertex_normals(mesh.vertices, mesh.faces) * true).sum(1)
    radius = np.linalg.norm(mesh.vertices / AXES, axis=1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()), float(np.abs(radius - 1).mean())


def test_lumps_go_and_the_surface_stays(normals):
    before = lumpy()
    calls.clear()
    after = with_relief(lambda part: (part("surface", 5, 5), before)[1], Guides(normals, before), checkpoint)
    angle, distance = errors(before)
    new_angle, new_distance = errors(after)
    assert new_angle < 0.5 * angle, (angle, new_angle)
    assert new_distance < distance, (distance, new_distance)
    assert len(after.faces) == 4 * len(before.faces)
    assert is_watertight(after.faces)
    assert after.colors is not None and len(after.colors) == len(after.vertices)
    shares = [step / total for _, step, total in calls]
    assert shares == sorted(shares) and shares[-1] == 1, "progress goes on and ends"


def test_views_of_nobody_change_little(normals):
    """White views see nothing: the surface is only calmed, by less than its lumps."""
    before = lumpy()
    after = follow_normals(before, np.full_like(normals, 255), checkpoint)
    moved = np.linalg.norm(after.vertices[: len(before.vertices)] - before.vertices, axis=1)
    assert moved.max() < 0.007


def test_without_views_it_is_what_was_extracted():
    before = lumpy()
    assert with_relief(lambda part: before, None, checkpoint) is before


def test_split_keeps_the_shape():
    mesh = lumpy()
    vertices, faces, colors = split(mesh.vertices, mesh.faces, mesh.colors)
    assert is_watertight(faces)
    old, new = (
        trimesh.Trimesh(v, f, process=False) for v, f in ((mesh.vertices, mesh.faces), (vertices, faces))
    )
    assert new.volume == pytest.approx(old.volume, rel=1e-5)
    assert colors is not None and np.array_equal(colors[: len(mesh.vertices)], mesh.colors)


def ellipsoid(grown: float = 0.0) -> DenseMesh:
    """The ellipsoid without lumps, grown along its normals."""
    ball = trimesh.creation.icosphere(4)
    points = np.asarray(ball.vertices) * AXES
    faces = ball.faces.astype(np.int32)
    return DenseMesh((points + grown * vertex_normals(points, faces)).astype(np.float32), faces)


def test_a_surface_that_is_too_full_is_laid_back_with_its_lumps():
    place, lumps = ellipsoid(), lumpy()
    own = vertex_normals(lumps.vertices, lumps.faces, smooth=3)
    full = dataclasses.replace(lumps, vertices=(lumps.vertices + 0.004 * own).astype(np.float32))
    back = settle(full, place)
    assert is_watertight(back.faces) and back.colors is full.colors
    inward = ((full.vertices - back.vertices) * own).sum(1)
    assert inward.mean() == pytest.approx(0.004, abs=0.0005) and inward.std() < 0.0008, "lumps stay"
    assert errors(back)[1] < 0.6 * errors(full)[1]


def test_what_the_plain_surface_lacks_stays():
    """A second ball far from the place is moved by nobody."""
    place = ellipsoid()
    apart = ellipsoid(0.004).vertices + np.float32([0.0, 0.9, 0.0])
    both = DenseMesh(
        np.concatenate([ellipsoid(0.004).vertices, apart]),
        np.concatenate([place.faces, place.faces + len(apart)]),
    )
    moved = np.linalg.norm(settle(both, place).vertices - both.vertices, axis=1)
    assert moved[: len(apart)].mean() == pytest.approx(0.004, abs=0.0005) and moved[len(apart) :].max() < 1e-6
