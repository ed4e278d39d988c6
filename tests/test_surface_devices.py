"""Triangles to pixels against plain loops, and the texture on every device there is."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
import pytest
import surface_person
import torch
from conftest import quiet

from synchuman.surface import build, scan
from synchuman.surface.build import coarse_mesh, image_sources, texture_mesh
from synchuman.surface.decimate import decimate
from synchuman.surface.mesh import DenseMesh, TexturedMesh
from synchuman.surface.scan import scan_convert

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))
FACES, SIZE = 4_000, 512
# Texels that may differ by more than rounding between devices: those at an outline of a depth map.
MOST_DIFFERENT = 0.002


@lru_cache(maxsize=1)
def coloured() -> tuple[DenseMesh, list]:
    """A coarse surface with colours as the decoder gives them, and its sources."""
    person = surface_person.make()
    sources = image_sources(person.colors, person.normals, person.photo)
    dense = coarse_mesh(person.logits, sources, FACES, quiet)
    vertices, faces = decimate(dense.vertices, dense.faces, 30_000)
    colors = (surface_person.color(vertices * person.height + person.middle) * 255).astype(np.uint8)
    return DenseMesh(vertices, faces, colors), sources


def textured(device: str, colors: bool = True) -> TexturedMesh:
    dense, sources = coloured()
    if not colors:
        dense = DenseMesh(dense.vertices, dense.faces)
    return texture_mesh(dense, sources, FACES, SIZE, quiet, torch.device(device))


@lru_cache(maxsize=2)
def on_cpu(colors: bool = True) -> TexturedMesh:
    return textured("cpu", colors)


def plainly(pixels: np.ndarray, faces: np.ndarray, side: int, depth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Nearest face and its depth at every pixel centre, face by face."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    nearest, best = np.full((side, side), -1), np.full((side, side), -np.inf)
    covered = np.zeros(len(faces), np.int64)
    for number, face in enumerate(faces):
        a, b, c = pixels[face]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        second = ((columns - a[0]) * (c[1] - a[1]) - (rows - a[1]) * (c[0] - a[0])) / area
        third = ((b[0] - a[0]) * (rows - a[1]) - (b[1] - a[1]) * (columns - a[0])) / area
        inside = (second >= 0) & (third >= 0) & (second + third <= 1)
        covered[number] = inside.sum()
        near = depth[face] @ np.stack([1 - second - third, second, third]).reshape(3, -1)
        won = inside & (near.reshape(side, side) > best)
        nearest[won], best[won] = number, near.reshape(side, side)[won]
    return nearest, best, covered


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("candidates", [200, 6_000_000])
def test_the_nearest_triangle_wins(device, candidates, monkeypatch):
    """Large, small, thin and far-off triangles of both windings, also when they are drawn part by part."""
    monkeypatch.setattr(scan, "CANDIDATES", candidates)
    rng = np.random.default_rng(3)
    side, count = 40, 120
    centre = rng.uniform(-10, side + 10, (count, 1, 2))
    pixels = (centre + rng.normal(size=(count, 3, 2)) * rng.choice([1, 4, 15], (count, 1, 1))).reshape(-1, 2)
    pixels[:30, 0] = pixels[:30, 0] * 0.02 + 20  # upright slivers
    depth = rng.normal(size=len(pixels))
    faces = np.arange(len(pixels)).reshape(-1, 3)
    given = (torch.from_numpy(array).to(device) for array in (pixels, faces))
    hits = scan_convert(*given, side, side, torch.from_numpy(depth).to(device))
    nearest, best, covered = plainly(pixels, faces, side, depth)
    index = hits.index.cpu().numpy()
    assert np.array_equal(index, np.flatnonzero(nearest >= 0))
    assert np.array_equal(hits.face.cpu().numpy(), nearest.ravel()[index])
    assert np.array_equal(hits.covered.cpu().numpy(), covered)
    assert np.allclose(hits.depth.cpu().numpy(), best.ravel()[index], atol=1e-5)
    places = hits.interpolate(torch.from_numpy(pixels).to(device), torch.from_numpy(faces).to(device))
    columns_rows = np.stack([index % side, index // side], 1) + 0.5
    assert np.allclose(places.cpu().numpy(), columns_rows, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_nothing_to_draw(device):
    pixels, faces = torch.zeros((3, 2), device=device), torch.zeros((2, 3), dtype=torch.int32, device=device)
    for some in (faces, faces[:0]):
        hits = scan_convert(pixels, some, 8, 8, pixels[:, 0])
        assert not len(hits.index) and hits.covered.tolist() == [0] * len(some)
        assert (hits.depth_map(8, 8, -2) == -2).all()


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("colors", [True, False])
def test_every_device_gives_the_same_texture(device, colors, monkeypatch):
    """Up to rounding, and the CPU bit by bit, however the triangles are drawn."""
    expected = on_cpu(colors)
    monkeypatch.setattr(scan, "CANDIDATES", 50_000)
    seen = textured(device, colors)
    assert np.array_equal(seen.faces, expected.faces) and np.allclose(seen.uv, expected.uv, atol=1e-6)
    different = np.abs(seen.texture.astype(int) - expected.texture).max(-1)
    assert (different > 2).mean() <= (0 if device == "cpu" else MOST_DIFFERENT)
    # What one device gives, it gives again.
    assert np.array_equal(textured(device, colors).texture, seen.texture)


def test_a_full_device_leaves_the_texture_to_the_cpu(monkeypatch, caplog):
    unwrap = build.unwrap

    def full(*given):
        if given[-1].type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return unwrap(*given)

    monkeypatch.setattr(build, "unwrap", full)
    with caplog.at_level(logging.WARNING):
        seen = textured("cuda")
    assert "ran out of memory" in caplog.text
    assert np.array_equal(seen.texture, on_cpu().texture)
