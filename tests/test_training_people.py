"""People made by code: body, poses, rasteriser, views, photos and shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synchuman.surface.voxelize import surface_voxels
from synchuman.training.people.fabrics import PATTERNS, SKIN_TONES, Material, colours, draw_cloth
from synchuman.training.people.kinematics import MAX_ELBOW, align, bend
from synchuman.training.people.noise import noise
from synchuman.training.people.outfits import draw_outfit
from synchuman.training.people.person import FIRST_EVALUATION_SEED, draw_description, reserved
from synchuman.training.people.poses import HARD_POSES, draw_pose
from synchuman.training.people.views import middle
from synchuman.training.render import rasterize, vertex_normals

BODY = Path("training-data/body.npz")
needs_body = pytest.mark.skipif(
    not BODY.is_file(), reason="no exported body; see synchuman.training.people.export_body"
)


def test_rasteriser_sees_nearest_and_farthest_triangle():
    points = torch.tensor(
        [[0, 0, 1], [16, 0, 1], [0, 16, 1], [0, 0, 2], [16, 0, 2], [0, 16, 2]], dtype=torch.float32
    )
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    near, far = rasterize(points, triangles, 16, 16, both=True)
    assert set(near.faces.tolist()) == {1} and set(far.faces.tolist()) == {0}
    assert len(near.pixels) == pytest.approx(128, abs=16)
    centres = torch.stack([near.pixels % 16, near.pixels // 16], 1) + 0.5
    assert torch.allclose(near.interpolate(points[:, :2], triangles.long()), centres, atol=1e-4)


def test_surface_voxels_are_a_shell_and_miss_nothing():
    # A cube's faces in two triangles each, far larger than a voxel.
    corners = (
        torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=torch.float32) * 0.6
        - 0.3
    )
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], dtype=torch.int32)
    grid = surface_voxels(corners, triangles, 32)
    inside = grid[8:24, 8:24, 8:24]
    assert not inside.any()
    low = int(0.2 * 32)
    assert grid[low, low : 32 - low - 1, low : 32 - low - 1].all()
    normals = vertex_normals(corners, triangles)
    assert ((normals * corners).sum(1) > 0).all()


def test_depth_is_that_of_the_body_and_not_of_a_limb():
    triangles = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    torso = torch.tensor([[0.0, 0.1, 0.0], [1.0, 0.1, 0.0], [0.0, 0.1, 1.0]])
    limb = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.1, 0.0], [0.0, -0.8, 0.0]])
    points = torch.cat([torso, limb])
    low, high = points[:, 1].amin(), points[:, 1].amax()
    centre = middle(points, triangles, low, high, torch.tensor(2.0))
    assert 0.05 < centre < 0.1  # the box's is -0.35
    # It gives way where the person would leave the cube, down to the box's where nothing else is possible.
    assert middle(points, triangles, low, high, torch.tensor(1.0)) == pytest.approx(-0.3)
    assert middle(points, triangles, low, high, torch.tensor(0.5)) == pytest.approx(-0.35)


def test_bend_respects_the_joint_limit():
    first, second = np.array([0.0, 0.0, -1.0]), np.array([0.0, -0.05, 1.0])
    limited = bend(first, second / np.linalg.norm(second), MAX_ELBOW)
    assert np.arccos(first @ limited) == pytest.approx(MAX_ELBOW, abs=1e-6)
    assert np.allclose(align(first, limited) @ first, limited)


def test_about_a_third_of_the_poses_are_hard():
    rng = np.random.default_rng(0)
    share = np.mean([draw_pose(rng).family in HARD_POSES for _ in range(1000)])
    assert 0.3 < share < 0.4


def test_every_pattern_gives_colours_and_differs_from_plain():
    x = torch.rand(500, 3) - 0.5
    for kind in PATTERNS:
        rng = np.random.default_rng(3)
        material = draw_cloth(rng, kind)
        result = colours([material], torch.zeros(500, dtype=torch.long), x)
        assert result.shape == (500, 3) and result.min() >= 0 and result.max() <= 1
        if kind not in ("plain", "print", "denim"):
            assert (result.std(0) / result.mean(0)).max() > 0.035


def test_skin_has_lips_and_brows_only_in_front():
    tone = SKIN_TONES[1]
    skin = Material("skin", (tone, (0.1, 0.1, 0.1), (0.7, 0.2, 0.2)))
    points = torch.tensor([[0.0, -0.16, 0.828], [0.03, -0.15, 0.927], [0.0, 0.1, 0.828], [0.0, -0.15, 0.96]])
    lips, brow, back, forehead = colours([skin], torch.zeros(4, dtype=torch.long), points)
    assert lips[1] < 0.7 * back[1] and brow.mean() < 0.6 * forehead.mean()


def test_noise_is_smooth_periodic_and_normalised():
    points = torch.rand(4000, 3) * 3
    values = noise(points, 10.0, 0.3)
    assert values.std() == pytest.approx(0.9, abs=0.25)
    assert (noise(points + 1e-4, 10.0, 0.3) - values).abs().max() < 0.05


def test_training_seeds_never_draw_reserved_combinations():
    for seed in range(200):
        _, pose, outfit, _ = draw_description(seed)
        assert not reserved(pose, outfit)
    held_out = [reserved(*draw_description(FIRST_EVALUATION_SEED + seed)[1:3]) for seed in range(40)]
    assert 0.25 < np.mean(held_out) < 0.75


def test_outfits_of_children_and_adults_have_garments():
    rng = np.random.default_rng(0)
    for feminine in (True, False):
        outfit = draw_outfit(rng, feminine, child=False)
        assert outfit.garments and outfit.hair_material is not None


@needs_body
def test_sample_is_deterministic_and_framed_like_the_method():
    from synchuman.training.people.sample import render_sample

    sample = render_sample(5, 96)
    again = render_sample(5, 96)
    assert all(np.array_equal(sample[name], again[name]) for name in sample)
    assert sample["colors"].shape == sample["normals"].shape == (5, 96, 96, 3)
    covered = (sample["normals"] < 250).any(-1)
    front, right, back, left, _ = covered
    rows = np.flatnonzero(front.any(1))
    columns = np.flatnonzero(front.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) >= 94
    # Stored back and left views are mirrored: the same silhouettes as front and right.
    assert (front == back).mean() > 0.995 and (right == left).mean() > 0.995
    # The front normals look at the front camera, the back ones away from it.
    assert sample["normals"][0][front][:, 2].mean() > 150 and sample["normals"][2][back][:, 2].mean() < 105
    grid = np.unpackbits(sample["structure"]).reshape(64, 64, 64).astype(bool)
    silhouette = grid.any(1).T[::-1]
    shrunk = front.reshape(32, 3, 32, 3).any((1, 3))
    assert (silhouette.reshape(32, 2, 32, 2).any((1, 3)) == shrunk).mean() > 0.97
    assert sample["canvas"].shape == sample["face"].shape == (96, 96, 4)
    assert sample["token"].shape == (224, 224, 3)


@needs_body
def test_shards_resume(tmp_path):
    from synchuman.training.people.generate import generate, shard_path

    paths = list(generate(2, 40, tmp_path, size=48))
    assert paths == [shard_path(tmp_path, 40, 2, 48)]
    before = paths[0].stat().st_mtime_ns
    assert list(generate(2, 40, tmp_path, size=48)) == paths and paths[0].stat().st_mtime_ns == before
    with np.load(paths[0]) as shard:
        assert shard["seeds"].tolist() == [40, 41] and shard["colors"].shape == (2, 5, 48, 48, 3)
