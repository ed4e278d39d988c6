"""A finished model in other looks and in pictures, checked on what comes out."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from synchuman.surface import pictures
from synchuman.surface.formats.glb import to_glb
from synchuman.surface.formats.placement import HEIGHT
from synchuman.surface.formats.read import read_glb
from synchuman.surface.formats.turntable import around
from synchuman.surface.looks import look_glb
from synchuman.surface.mesh import TexturedMesh

VALIDATOR = Path(__file__).with_name("validate_glb.cjs")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capsule, red at its front and blue at its back."""
    shape = trimesh.creation.capsule(height=0.7, radius=0.12, count=[16, 16])
    vertices = shape.vertices - shape.vertices.mean(0)
    uv = np.stack([np.where(vertices[:, 1] < 0, 0.25, 0.75), np.full(len(vertices), 0.5)], 1)
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:, :4], texture[:, 4:] = (220, 30, 30), (30, 30, 220)
    mesh = TexturedMesh(
        vertices.astype(np.float32),
        shape.faces.astype(np.int32),
        uv.astype(np.float32),
        texture,
        shape.vertex_normals.astype(np.float32),
    )
    path = tmp_path_factory.mktemp("model") / "output.glb"
    path.write_bytes(to_glb(mesh, image_format="png"))
    return path


def test_a_glb_is_read_back_the_right_way_round(model: Path) -> None:
    mesh = read_glb(model.read_bytes())
    assert np.ptp(mesh.vertices, axis=0).argmax() == 2 and np.abs(mesh.vertices).max() <= 0.501
    assert np.einsum("ij,ij->i", mesh.vertices, mesh.normals).mean() > 0
    frames = list(around(mesh, 4, 64))
    front, back = frames[0][32, 32], frames[2][32, 32]
    assert front[0] > 150 > 60 > front[2] and back[2] > 150 > 60 > back[0]


@pytest.mark.parametrize("look", ["clay", "normals", "wire"])
def test_looks_are_valid_and_as_large_as_the_model(model: Path, look: str, tmp_path: Path) -> None:
    path = tmp_path / "look.glb"
    path.write_bytes(look_glb(model, look))  # type: ignore[arg-type]
    told = subprocess.run(["node", VALIDATOR, path], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["issues"]["numErrors"] == 0, told.stdout
    scene = trimesh.load(path, file_type="glb", force="scene", process=False)
    assert scene.extents[1] == pytest.approx(HEIGHT, rel=0.01)
    body = next(part for part in scene.geometry.values() if isinstance(part, trimesh.Trimesh))
    original = trimesh.load(model, force="mesh", process=False)
    assert len(body.faces) == len(original.faces)
    if look == "normals":
        colours = body.visual.vertex_attributes["color"]
        assert colours[body.vertices[:, 2].argmax()][2] > 240  # z, to the front, is blue
    assert len(scene.geometry) == (2 if look == "wire" else 1)


def test_unknown_looks_are_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="clay"):
        look_glb(model, "gold")  # type: ignore[arg-type]


def test_photo_and_model_stand_alike(model: Path) -> None:
    cutout = np.zeros((300, 400, 4), np.uint8)
    cutout[50:250, 180:220] = (10, 200, 10, 255)
    photo, front = pictures.beside_photo(read_glb(model.read_bytes()), cutout, side=160)
    assert photo.shape == front.shape == (160, 120, 3)
    heights = [np.flatnonzero((np.abs(p.astype(int) - 237).max(-1) > 60).any(1)) for p in (photo, front)]
    assert abs(np.ptp(heights[0]) - np.ptp(heights[1])) <= 4 and abs(heights[0][0] - heights[1][0]) <= 3


def test_a_turntable_is_one_sheet_on_transparent_ground(model: Path) -> None:
    sheet = pictures.turntable_sheet(read_glb(model.read_bytes()), frames=8, side=40)
    with Image.open(io.BytesIO(sheet)) as image:
        assert image.format == "WEBP" and image.size == (40 * pictures.COLUMNS, 80)
        whole = np.asarray(image.convert("RGBA")).astype(int)
    assert whole[0, 0, 3] == 0 and whole[20, 20, 3] == 255
    # The front is the first picture, the back the fifth: 90 degrees are two.
    front, back = whole[20, 20], whole[20, 4 * 40 + 20]
    assert front[0] > 150 > 60 > front[2] and back[2] > 150 > 60 > back[0]
