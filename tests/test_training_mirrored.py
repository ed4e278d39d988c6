"""Mirrored training data is what rendering the mirrored person gives."""

from types import SimpleNamespace

import numpy as np
import torch
import trimesh

from synchuman.training.mirrored import mirror
from synchuman.training.people.fabrics import draw_cloth
from synchuman.training.people.views import place, render_views
from synchuman.training.people_data import unpack_structure

SIZE = 48


def blob(sign: float) -> SimpleNamespace:
    """An ellipsoid with a smaller one on its right (sign 1) or left (-1), and one in front."""
    parts = [
        trimesh.creation.icosphere(3).apply_scale((0.3, 0.2, 0.5)),
        trimesh.creation.icosphere(3).apply_scale(0.15).apply_translation((0.35, 0.05, 0.3)),
        trimesh.creation.icosphere(3).apply_scale(0.12).apply_translation((0.1, -0.25, 0.1)),
    ]
    mesh = trimesh.util.concatenate(parts)
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float32)) * torch.tensor([sign, 1.0, 1.0])
    faces = torch.from_numpy(np.array(mesh.faces, np.int32))
    return SimpleNamespace(
        vertices=vertices,
        triangles=faces if sign > 0 else faces.flip(1).contiguous(),
        reference=torch.zeros_like(vertices),
        identity=torch.zeros(len(vertices), dtype=torch.int64),
        materials=[draw_cloth(np.random.default_rng(3))],
    )


def rendered(sign: float) -> dict[str, torch.Tensor]:
    scene = place(blob(sign))
    colors, normals = render_views(scene, SIZE, torch.ones(3))
    column = torch.arange(SIZE, dtype=torch.uint8)[None, :, None].expand(SIZE, SIZE, 4)[None]
    flat = column if sign > 0 else column.flip(2)
    return {
        "colors": torch.from_numpy(colors)[None],
        "normals": torch.from_numpy(normals)[None],
        "structure": torch.from_numpy(np.packbits(scene.occupancy.numpy().ravel()))[None],
        "canvas": flat,
        "face": flat,
        "token": flat[..., :3],
    }


def test_mirrored_people_are_what_mirroring_gives():
    person, reflected = rendered(1), rendered(-1)
    found = mirror(person)
    assert set(found) == set(person)
    for key in ("canvas", "face", "token"):
        assert torch.equal(found[key], reflected[key]), key
    voxels, expected = (unpack_structure(x["structure"]) for x in (found, reflected))
    assert (voxels != expected).float().mean() < 2e-4  # a surface on the border of two voxels
    for key in ("colors", "normals"):
        difference = (found[key].float() - reflected[key].float()).abs()
        assert difference.mean() < 0.15, key
        assert (difference > 12).float().mean() < 2e-3, key
        unmirrored = (person[key].float() - reflected[key].float()).abs()
        assert unmirrored.mean() > 20 * difference.mean(), key
    assert torch.equal(mirror(found)["structure"], person["structure"])
