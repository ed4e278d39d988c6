"""Surface targets of exact shapes: distance, sign, hidden layers, sheets and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.measure import marching_cubes

from synchuman.nn.sparse_tensor import child_offsets
from synchuman.surface.voxelize import surface_voxels
from synchuman.training.people.surface_targets import CELLS, CORNERS, TARGETS, Shape, shape_targets

BODY = Path("training-data/body.npz")
needs_body = pytest.mark.skipif(
    not BODY.is_file(), reason="no exported body; see synchuman.training.people.export_body"
)
NOBODY = np.zeros((0, 3), np.int32)
RED, BLUE = (200, 10, 10), (10, 10, 200)


def grid_triangles(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid of rows x columns vertices."""
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def sphere(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in the unit cube and triangles, counter-clockwise from outside."""
    polar, around = np.meshgrid(np.linspace(0, np.pi, 120), np.linspace(0, 2 * np.pi, 240), indexing="ij")
    points = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=-1
    )
    return points.reshape(-1, 3) * radius, grid_triangles(120, 240)


def targets(vertices: np.ndarray, triangles: np.ndarray, paint=None) -> dict[str, np.ndarray]:
    """Targets of a mesh without barrier; grey unless painted."""
    points = torch.from_numpy(vertices).float()
    occupancy = surface_voxels(points, torch.from_numpy(triangles), CELLS // 2).numpy()
    shape = Shape(((points + 0.5) * CELLS).numpy(), triangles, NOBODY)
    return shape_targets(shape, occupancy, paint or (lambda f, w, n: np.full((len(f), 3), 128, np.uint8)))


def sdf_vertices(result: dict[str, np.ndarray]) -> np.ndarray:
    """Positions [m, 27, 3] of the distances, in cells from the cube's centre."""
    return 2 * result["voxels"].astype(int)[:, None] + CORNERS - CELLS // 2


def cell_centres(result: dict[str, np.ndarray]) -> np.ndarray:
    """Centres [m, 8, 3] of the cells, in cells from the cube's centre."""
    return 2 * result["voxels"].astype(int)[:, None] + child_offsets().numpy() + 0.5 - CELLS // 2


def dense(result: dict[str, np.ndarray]) -> np.ndarray:
    """The distances on the whole grid [129, 129, 129], outside where there is none."""
    grid = np.full((CELLS + 1,) * 3, 2.0)
    grid[tuple(np.moveaxis(sdf_vertices(result) + CELLS // 2, -1, 0))] = result["sdf"] / 63.5
    return grid


def test_sphere_is_exact():
    radius = 0.3
    result = targets(*sphere(radius))
    assert tuple(result) == TARGETS and result["sdf"].dtype == np.int8
    exact = np.linalg.norm(sdf_vertices(result), axis=-1) - radius * CELLS
    near = np.abs(exact) <= 1.5
    assert near.mean() > 0.3
    assert np.abs(result["sdf"] / 63.5 - exact)[near].max() <= 0.15
    far = np.abs(exact) > 0.15
    assert (np.sign(result["sdf"]) == np.sign(exact))[far].all()

    voxels = result["voxels"].astype(int)
    assert (np.diff((voxels[:, 0] * 64 + voxels[:, 1]) * 64 + voxels[:, 2]) > 0).all()
    centres, valid = cell_centres(result), result["cell_valid"]
    normals = result["cell_normal"] / 127
    outward = centres / np.linalg.norm(centres, axis=-1, keepdims=True)
    assert ((normals * outward).sum(-1)[valid] > 0.98).all()
    reached = centres + result["cell_offset"][..., None] / 127 * normals
    assert np.abs(np.linalg.norm(reached, axis=-1) - radius * CELLS)[valid].max() < 0.15
    passed = np.abs(np.linalg.norm(centres, axis=-1) - radius * CELLS)
    assert valid[passed < 0.8].all() and not valid[passed > 1.0].any()


def test_colours_are_those_of_the_nearest_surface():
    vertices, triangles = sphere(0.3)
    above = vertices[triangles].mean(1)[:, 2] > 0
    result = targets(
        vertices, triangles, lambda faces, w, n: np.where(above[faces, None], RED, BLUE).astype(np.uint8)
    )
    height, valid = cell_centres(result)[..., 2], result["cell_valid"]
    assert (result["cell_color"][valid & (height > 1.5)] == RED).all()
    assert (result["cell_color"][valid & (height < -1.5)] == BLUE).all()


def test_layers_below_the_surface_are_ignored():
    (outer, triangles), (inner, _) = sphere(0.3), sphere(0.29)
    both = np.concatenate([triangles, triangles + len(outer)])
    result = targets(
        np.concatenate([outer, inner]),
        both,
        lambda faces, w, n: np.where(faces[:, None] < len(triangles), RED, BLUE).astype(np.uint8),
    )
    exact = np.linalg.norm(sdf_vertices(result), axis=-1) - 0.3 * CELLS
    near = np.abs(exact) <= 1.5
    assert np.abs(result["sdf"] / 63.5 - exact)[near].max() <= 0.15
    assert (result["sdf"][exact < -0.2] < 0).all()
    assert (result["cell_color"][result["cell_valid"]] == RED).all()


def test_open_sheet_gets_a_closed_surface_around_it():
    around, height = np.meshgrid(np.linspace(0, 2 * np.pi, 300), np.linspace(-0.3, 0.3, 150), indexing="ij")
    vertices = np.stack([0.2 * np.cos(around), 0.2 * np.sin(around), height], axis=-1).reshape(-1, 3)
    result = targets(vertices, grid_triangles(300, 150))
    at, value = sdf_vertices(result), result["sdf"] / 63.5
    across = np.linalg.norm(at[..., :2], axis=-1) - 0.2 * CELLS
    middle = np.abs(at[..., 2]) < 0.29 * CELLS
    assert (value[middle & (np.abs(across) < 0.3)] < 0).all()
    assert (value[np.abs(across) > 0.8] > 0).all()
    points, faces, _, _ = marching_cubes(dense(result), 1e-3)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    radius = np.linalg.norm(points[:, :2] - CELLS // 2, axis=1) / CELLS
    thickness = np.sqrt(np.array([np.mean(radius > 0.2), np.mean(radius < 0.2)]))
    assert (thickness > 0.6).all()
    assert np.abs(radius * CELLS - 0.2 * CELLS).max() < 0.85


def test_narrow_pleats_have_no_holes():
    # Pleats 3.5 cells apart: the flood does not get into them, and sees each side of a pleat once.
    x, z = np.meshgrid(np.linspace(-0.2, 0.2, 800), np.linspace(-0.2, 0.2, 60), indexing="ij")
    y = 1.2 / CELLS * np.sin(2 * np.pi * x * CELLS / 3.5)
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    result = targets(vertices, grid_triangles(800, 60))
    at, value = sdf_vertices(result), result["sdf"] / 63.5
    inner = (np.abs(at[..., 0]) < 0.19 * CELLS) & (np.abs(at[..., 2]) < 0.19 * CELLS)
    above = np.abs(at[..., 1] - 1.2 * np.sin(2 * np.pi * at[..., 0] / 3.5))
    assert (value[inner & (above < 0.4)] < 0).all()
    assert (value[inner & (np.abs(at[..., 1]) >= 2)] > 0).all()


def test_barrier_keeps_the_flood_out():
    vertices, triangles = sphere(0.3)
    open_top = triangles[vertices[triangles].mean(1)[:, 2] < 0.25]
    points = torch.from_numpy(vertices).float()
    occupancy = surface_voxels(points, torch.from_numpy(open_top), CELLS // 2).numpy()
    for barrier, inside in ((triangles, -2), (NOBODY, 0)):
        shape = Shape(((points + 0.5) * CELLS).numpy(), open_top, barrier)
        result = shape_targets(shape, occupancy, lambda f, w, n: np.zeros((len(f), 3), np.uint8))
        at = sdf_vertices(result)
        deep = (np.linalg.norm(at, axis=-1) < 0.3 * CELLS - 2.5) & (at[..., 2] < 0)
        assert deep.any() and (np.clip(result["sdf"][deep] / 63.5, -2, 0) == inside).all()


@needs_body
def test_shards_hold_the_targets_of_all_people(tmp_path):
    from synchuman.training.people.generate import generate, surface_path
    from synchuman.training.people.sample import render_sample

    (path,) = generate(2, 40, tmp_path, size=48, surface=True)
    shard = np.load(surface_path(path))
    counts = shard["voxel_counts"]
    sample = render_sample(41, 48, surface=True)
    assert counts.dtype == np.int32 and shard["seeds"].tolist() == [40, 41]
    for name in TARGETS:
        assert len(shard[name]) == counts.sum()
        assert np.array_equal(shard[name][counts[0] :], sample[name])
    occupied = np.zeros((64,) * 3, bool)
    occupied[tuple(sample["voxels"][sample["occupied"]].T)] = True
    assert np.array_equal(np.packbits(occupied.ravel()), sample["structure"])
    surface_path(path).unlink()
    assert list(generate(2, 40, tmp_path, size=48, surface=True)) == [path]
    assert surface_path(path).is_file() and len(list(tmp_path.iterdir())) == 2
