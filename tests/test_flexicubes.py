"""FlexiCubes against golden meshes of the reference, its tables by enumeration, and the grid fill before it."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from synchuman.surface.dual_marching_cubes import CORNERS, EDGES, FACE_STEPS, FACES, tables
from synchuman.surface.flexicubes import dual_mesh, extract, extract_batch, extract_field
from synchuman.surface.grid_fill import fill_hidden
from synchuman.surface.mesh import is_watertight
from synchuman.surface.voxel_field import Keys, average_field

GOLDENS = Path(__file__).parent / "fixtures" / "flexicubes_goldens.safetensors"
NAMES = ("sphere16", "bumpy32", "noise16", "border16", "checker8", "empty8")
COLOR_STEP = 4
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def corner_positions(coords):
    return coords[:, None, 1:] + torch.tensor(CORNERS)


def golden(name):
    """Return (settings, coords, feats, tensors); features are drawn again by the goldens' rule."""
    with safe_open(GOLDENS, "pt") as file:
        settings = json.loads(file.metadata()["cases"])[name]
        tensors = {k.split(".")[1]: file.get_tensor(k) for k in file.keys() if k.startswith(name + ".")}  # noqa: SIM118
    coords = tensors["coords"].int()
    seed = zlib.crc32(f"input:s2_flexicubes_{name}.feats".encode())
    feats = torch.randn(len(coords), 101, generator=torch.Generator().manual_seed(seed))
    if "center" in settings:
        offset = (corner_positions(coords) - torch.tensor(settings["center"])) / torch.tensor(
            settings["radii"]
        )
        feats[:, :8] = 2 * (offset.norm(dim=-1) - 1) + settings["noise"] * feats[:, :8]
        feats[:, 8:32] *= 0.5
    if "sdf" in tensors:
        feats[:, :8] = tensors["sdf"]
    return settings, coords, feats, tensors


def shell(resolution, distance, reach, corner_noise=0.0):
    """Return (coords, feats) of the voxels within `reach` cells of the surface of a distance in cells."""
    axis = torch.arange(resolution)
    cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    cells = cells[distance(cells + 0.5).abs() <= reach]
    coords = torch.cat([torch.zeros(len(cells), 1, dtype=torch.int64), cells], dim=1)
    noise = torch.randn(len(cells), 101, generator=torch.Generator().manual_seed(5))
    feats = 0.3 * noise
    feats[:, :8] = (distance(corner_positions(coords).float()) + 1) / resolution + corner_noise * noise[:, :8]
    return coords, feats


def ball(center, radius):
    return lambda p: (p - torch.tensor(center)).norm(dim=-1) - radius


def turned(faces):
    """Turn every face so that it starts with its smallest vertex, keeping its winding, and sort the faces."""
    start = faces.argmin(1, keepdim=True)
    turned = faces.gather(1, (start + torch.arange(3)) % 3)
    return sorted(map(tuple, turned.tolist()))


def volume(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]].double() for i in range(3))
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def bodies(mesh):
    label = torch.arange(len(mesh.vertices))
    while True:
        low = label[mesh.faces].min(1, keepdim=True).values.expand(-1, 3)
        new = label.scatter_reduce(0, mesh.faces.reshape(-1), low.reshape(-1), "amin")
        if torch.equal(new, label):
            return len(torch.unique(label[mesh.faces]))
        label = new


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_golden(name, device):
    settings, coords, feats, expected = golden(name)
    mesh = extract(coords.to(device), feats.to(device), settings["res"])
    vertices, faces, colors = mesh.vertices.cpu(), mesh.faces.cpu(), mesh.colors.cpu()
    assert vertices.shape == expected["vertices"].shape
    assert faces.shape == expected["faces"].shape
    assert colors.shape == (len(vertices), 6)
    if not len(vertices):
        return
    distance, nearest = torch.cdist(vertices.double(), expected["vertices"].double()).min(1)
    assert distance.max() <= 2e-6
    assert len(torch.unique(nearest)) == len(vertices)
    at = torch.empty_like(nearest)
    at[nearest] = torch.arange(len(nearest))
    assert (colors[at[::COLOR_STEP]] - expected["colors"]).abs().max() <= 1e-5
    assert turned(nearest[faces]) == turned(expected["faces"].long())


@pytest.mark.parametrize("name", ["noise16", "border16", "bumpy32", "sphere16"])
def test_golden_counts_of_cubes(name, monkeypatch):
    settings, coords, feats, _ = golden(name)
    seen = {}
    import synchuman.surface.flexicubes as module

    def recorded(cubes, corners, sdf, *rest):
        case = ((sdf[corners] < 0) * 2 ** torch.arange(8)).sum(1)
        _, _, edges = module._dual_vertices(cubes, corners, sdf, Keys(settings["res"]))
        seen["cubes"] = len(cubes)
        seen["checked"] = int((tables().doubtful_face[case] >= 0).sum())
        seen["inverted"] = int((edges != tables().patch_of_edge[case]).any(1).sum())
        return dual_mesh(cubes, corners, sdf, *rest)

    monkeypatch.setattr(module, "dual_mesh", recorded)
    extract(coords, feats, settings["res"])
    assert seen == {k: settings[k] for k in seen}


def test_tables_join_every_cut_edge_into_one_closed_loop():
    table = tables()
    for case in range(256):
        cut = [e for e, (a, b) in enumerate(EDGES) if (case >> a & 1) != (case >> b & 1)]
        patches = table.patch_of_edge[case]
        assert [e for e in range(12) if patches[e] >= 0] == cut
        assert sorted({int(patches[e]) for e in cut}) == list(range(table.patches[case]))
        for face in FACES:
            for patch in range(table.patches[case]):
                edges = [e for e in cut if patches[e] == patch and set(EDGES[e]) <= set(face)]
                assert len(edges) in (0, 2, 4), "a loop enters and leaves every face it meets"


def test_tables_separate_inside_corners_on_ambiguous_faces():
    table = tables()
    assert table.patches.max() == 4
    # Two opposite corners of a face inside: two patches; their complement joins the inside around: one.
    assert table.patches[0b1001] == 2
    assert table.patches[255 - 0b1001] == 1
    unambiguous = [c for c in range(256) if not any(_ambiguous(c, face) for face in FACES)]
    for case in unambiguous:
        assert table.patches[case] == table.patches[255 - case]
    assert any(table.patches[c] != table.patches[255 - c] for c in range(256))
    # The number of patches does not depend on how the cube is turned or mirrored.
    for axes in ((1, 0, 2), (0, 2, 1), (2, 0, 1)):
        for flips in range(8):
            moved = [_corner_index(c, axes, flips) for c in CORNERS]
            for case in range(256):
                image = sum(1 << moved[k] for k in range(8) if case >> k & 1)
                assert table.patches[image] == table.patches[case]


def test_tables_doubtful_cases():
    table = tables()
    doubtful = [c for c in range(256) if table.doubtful_face[c] >= 0]
    assert len(doubtful) == 36
    for case in range(256):
        faces = [f for f, face in enumerate(FACES) if _ambiguous(case, face)]
        edges = [e for e in range(12) if faces and set(EDGES[e]) <= set(FACES[faces[0]])]
        folded = len(faces) == 1 and len(set(table.patch_of_edge[case][edges].tolist())) == 1
        assert (case in doubtful) == folded, "doubtful: the only ambiguous face is met twice by one loop"
        if folded:
            assert int(table.doubtful_face[case]) == faces[0]
            axis = next(i for i in range(3) if FACE_STEPS[faces[0]][i])
            assert all(CORNERS[k][axis] * 2 - 1 == FACE_STEPS[faces[0]][axis] for k in FACES[faces[0]])


def _ambiguous(case, face):
    signs = {CORNERS[k]: case >> k & 1 for k in face}
    (a, s), *others = signs.items()
    opposite = [q for q in others if sum(x != y for x, y in zip(a, q[0])) == 2]
    beside = [q[1] for q in others if q not in opposite]
    return opposite[0][1] == s and beside == [1 - s, 1 - s]


def _corner_index(corner, axes, flips):
    moved = [corner[axes[i]] ^ (flips >> i & 1) for i in range(3)]
    return moved[0] + 2 * moved[1] + 4 * moved[2]


def test_sphere_is_closed_and_round():
    """A solid ball of voxels: one closed surface that faces outwards, where it should be."""
    resolution, radius = 32, 9.3
    coords, feats = shell(resolution, ball((16.2, 15.7, 16.4), radius), reach=100)
    feats[:, 8:53] = 0
    mesh = extract(coords, feats, resolution)
    assert is_watertight(mesh.faces.numpy())
    assert len(mesh.vertices) - len(mesh.faces) / 2 == 2
    r = radius / resolution
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * r**3, rel=0.02)
    center = torch.tensor((16.2, 15.7, 16.4)) / resolution - 0.5
    assert ((mesh.vertices - center).norm(dim=1) - r).abs().max() < 0.002


def test_thin_shell_has_an_inner_wall_of_uncovered_cubes():
    """Cubes without a voxel close the surface wherever a voxel's inside corner meets the empty inside."""
    coords, feats = shell(32, ball((16.0, 16.0, 16.0), 9.3), reach=1.5)
    mesh = extract(coords, feats, 32)
    assert is_watertight(mesh.faces.numpy())
    assert bodies(mesh) == 2
    cell = torch.floor((mesh.vertices + 0.5) * 32).long()
    covered = {tuple(c) for c in coords[:, 1:].tolist()}
    assert any(tuple(c) not in covered for c in cell.tolist())


def test_noise_gives_a_manifold_only_with_the_exchange(monkeypatch):
    """Every edge has two faces, also between ambiguous cubes; without the exchange of cases some have four."""
    settings, coords, feats, _ = golden("noise16")
    assert is_watertight(extract(coords, feats, settings["res"]).faces.numpy())
    plain = replace(tables(), doubtful_face=torch.full((256,), -1))
    monkeypatch.setattr("synchuman.surface.flexicubes.tables", lambda: plain)
    assert not is_watertight(extract(coords, feats, settings["res"]).faces.numpy())


def test_colours_are_interpolated_where_the_surface_is():
    """A colour linear in height comes back linear, through the sigmoid at the grid vertices."""
    resolution = 32
    coords, feats = shell(resolution, ball((16.0, 16.0, 16.0), 10.0), reach=100)
    feats[:, 8:53] = 0
    height = corner_positions(coords)[..., 2] / resolution
    feats[:, 53:] = torch.logit(height.clamp(0.02, 0.98))[..., None].expand(-1, -1, 6).reshape(-1, 48)
    mesh = extract(coords, feats, resolution)
    assert (mesh.colors - (mesh.vertices[:, 2:] + 0.5)).abs().max() < 1e-5


def test_order_of_voxels_and_batch_do_not_matter():
    settings, coords, feats, _ = golden("noise16")
    alone = extract(coords, feats, settings["res"])
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(1))
    shuffled = extract(coords[order], feats[order], settings["res"])
    torch.testing.assert_close(alone.vertices, shuffled.vertices)
    assert torch.equal(alone.faces, shuffled.faces)
    torch.testing.assert_close(alone.colors, shuffled.colors)
    other = golden("border16")
    both = torch.cat([other[1] + torch.tensor([1, 0, 0, 0]), coords])
    meshes = extract_batch(both, torch.cat([other[2], feats]), 16)
    assert len(meshes) == 2
    torch.testing.assert_close(meshes[0].vertices, alone.vertices)
    assert torch.equal(meshes[1].faces, extract(*other[1:3], 16).faces)


def test_moved_voxels_give_the_moved_mesh():
    _, coords, feats, _ = golden("noise16")
    here = extract(coords, feats, 16)
    there = extract(coords + torch.tensor([0, 1, 2, -1]), feats, 16)
    assert torch.equal(here.faces, there.faces)
    shift = torch.tensor([1, 2, -1]) / 16
    assert (there.vertices - here.vertices - shift).abs().max() < 1e-6


def test_half_precision_features_are_read_as_float32():
    settings, coords, feats, _ = golden("sphere16")
    half = extract(coords, feats.half(), settings["res"])
    same = extract(coords, feats.half().float(), settings["res"])
    assert half.vertices.dtype == torch.float32
    torch.testing.assert_close(half.vertices, same.vertices)


def test_bad_input_is_named():
    _, coords, feats, _ = golden("empty8")
    with pytest.raises(ValueError, match="feats must be"):
        extract(coords, feats[:, :100], 8)
    with pytest.raises(ValueError, match="integers"):
        extract(coords.float(), feats, 8)
    with pytest.raises(ValueError, match="out of the grid"):
        extract(coords + 4, feats, 8)
    with pytest.raises(ValueError, match="more than once"):
        extract(torch.cat([coords, coords[:1]]), torch.cat([feats, feats[:1]]), 8)
    with pytest.raises(ValueError, match="extract_batch"):
        extract(torch.cat([coords, coords + torch.tensor([1, 0, 0, 0])]), torch.cat([feats, feats]), 8)
    feats[3, 2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        extract(coords, feats, 8)
    with pytest.raises(ValueError, match="not finite"):
        extract(coords, feats.half(), 8)


def test_no_voxels_give_an_empty_mesh():
    mesh = extract(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 101), 16)
    assert mesh.vertices.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)
    assert mesh.colors.shape == (0, 6)
    assert extract_batch(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 101), 16) == []


def test_fill_removes_inner_wall_cavities_and_floaters():
    distance = ball((24.0, 24.0, 24.0), 12.4)
    speck = ball((41.0, 41.0, 41.0), 2.2)
    coords, feats = shell(48, lambda p: torch.minimum(distance(p), speck(p)), reach=2.5)
    field = average_field(coords, feats, 48)
    assert bodies(extract_field(field)) == 3
    mesh = extract_field(fill_hidden(field))
    assert bodies(mesh) == 1
    assert is_watertight(mesh.faces.numpy())
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * (12.4 / 48) ** 3, rel=0.02)
    center = torch.zeros(3)
    assert (mesh.vertices - center).norm(dim=1).min() > 12.4 / 48 - 0.015


def test_fill_keeps_the_outer_surface_untouched():
    coords, feats = shell(48, ball((24.0, 24.0, 24.0), 12.4), reach=2.5)
    field = average_field(coords, feats, 48)
    before, after = extract_field(field), extract_field(fill_hidden(field))
    outer = before.vertices.norm(dim=1) > 11.5 / 48
    torch.testing.assert_close(after.vertices, before.vertices[outer])
    torch.testing.assert_close(after.colors, before.colors[outer])


@pytest.mark.parametrize(("hole", "opens"), [(0, True), (1, False), (2, False)])
def test_fill_seals_punctures(hole, opens):
    """A hole one grid vertex wide lets an exact flood in (radius 0); a ball of one or two cells stays out."""
    distance = ball((24.0, 24.0, 24.0), 12.4)
    coords, feats = shell(48, distance, reach=2.5)
    middle = ((coords[:, 2:] == 23) | (coords[:, 2:] == 24)).all(1)
    pierced = ~(middle & (coords[:, 1] > 24))
    field = average_field(coords[pierced], feats[pierced], 48)
    mesh = extract_field(fill_hidden(field, radii=(hole,)))
    hollow = volume(mesh) < 0.8 * 4 / 3 * np.pi * (12.4 / 48) ** 3
    assert hollow == opens


def test_fill_takes_the_larger_ball_where_the_smaller_leaks():
    distance = ball((24.0, 24.0, 24.0), 12.4)
    coords, feats = shell(48, distance, reach=2.5)
    rows = (coords[:, 2:] - 24).abs().amax(1)
    pierced = ~((rows <= 2) & (coords[:, 1] > 24))
    field = average_field(coords[pierced], feats[pierced], 48)
    full = 4 / 3 * np.pi * (12.4 / 48) ** 3
    assert volume(extract_field(fill_hidden(field, radii=(1,)))) < 0.8 * full
    assert volume(extract_field(fill_hidden(field))) == pytest.approx(full, rel=0.03)


def test_fill_closes_the_surface_at_the_border_of_the_grid():
    coords, feats = shell(32, ball((16.0, 16.0, 8.0), 11.4), reach=2.5)
    field = average_field(coords, feats, 32)
    assert not is_watertight(extract_field(field).faces.numpy())
    mesh = extract_field(fill_hidden(field))
    assert is_watertight(mesh.faces.numpy())
    assert bodies(mesh) == 1
    assert mesh.vertices[:, 2].min() == pytest.approx(-0.5, abs=0.5 / 32)


def test_fill_leaves_a_field_without_an_inside_alone():
    settings, coords, feats, _ = golden("empty8")
    field = average_field(coords, feats, settings["res"])
    assert fill_hidden(field) is field
