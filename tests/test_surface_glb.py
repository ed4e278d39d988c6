"""Exported models: valid glTF, y-up, metres, the front towards +z, read back by others."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import surface_person
import trimesh

from synchuman.surface.formats.glb import to_glb
from synchuman.surface.formats.placement import world_vertices
from synchuman.surface.mesh import TexturedMesh

HERE = Path(__file__).parent
VALIDATOR = HERE / "node_modules" / "gltf-validator"


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    return surface_person.built()


@pytest.fixture(scope="module")
def validate(tmp_path_factory):
    """The Khronos validator as a function from GLB bytes to its report."""
    if not shutil.which("node"):
        pytest.skip("node is not installed: the Khronos validator (npm gltf-validator) cannot run")
    if not VALIDATOR.exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, timeout=120)
    path = tmp_path_factory.mktemp("glb") / "model.glb"

    def run(glb: bytes) -> dict:
        path.write_bytes(glb)
        command = ["node", str(HERE / "validate_glb.cjs"), str(path)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_khronos_validator_has_nothing_to_say(mesh, validate, image_format):
    report = validate(to_glb(mesh, {"seed": 43, "settings": {"guidance": 2.0}}, image_format=image_format))
    issues = report["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == issues["numInfos"] == 0, issues["messages"]
    assert report["info"]["totalTriangleCount"] == len(mesh.faces)


def test_the_validator_sees_faults(mesh, validate):
    broken = TexturedMesh(mesh.vertices, mesh.faces, mesh.uv, mesh.texture, mesh.normals * np.nan)
    assert validate(to_glb(broken))["issues"]["numErrors"] > 0


def test_axes_and_scale(mesh):
    scene = trimesh.load(io.BytesIO(to_glb(mesh)), file_type="glb")
    (model,) = scene.geometry.values()
    low, high = model.bounds
    assert low[1] == pytest.approx(0, abs=1e-5) and high[1] == pytest.approx(1.7, abs=1e-4)
    assert low[0] == pytest.approx(-high[0], abs=1e-4)
    # The toes point to the front camera: +z.
    feet = model.vertices[model.vertices[:, 1] < 0.1]
    ankles = model.vertices[(model.vertices[:, 1] > 0.25) & (model.vertices[:, 1] < 0.4)]
    assert feet[:, 2].max() > ankles[:, 2].max() + 0.05
    # x stays to the right in the front view.
    world = world_vertices(mesh.vertices)
    assert np.corrcoef(world[:, 0], mesh.vertices[:, 0])[0, 1] > 0.999
    assert model.volume > 0
    outward = (model.vertex_normals * model.vertices[:, :]).sum()
    assert outward > 0


def test_height_is_a_choice(mesh):
    assert np.ptp(world_vertices(mesh.vertices, 1.2)[:, 1]) == pytest.approx(1.2, abs=1e-5)
    with pytest.raises(ValueError, match="positive"):
        to_glb(mesh, height=0)


def test_material_metadata_and_texture(mesh):
    glb = to_glb(mesh, {"seed": 7}, image_format="png")
    length = int.from_bytes(glb[12:16], "little")
    document = json.loads(glb[20 : 20 + length])
    assert document["asset"]["extras"] == {"seed": 7}
    assert document["asset"]["generator"] == "SyncHuman Studio"
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and material["roughnessFactor"] == 1
    scene = trimesh.load(io.BytesIO(glb), file_type="glb")
    (model,) = scene.geometry.values()
    assert (np.asarray(model.visual.material.baseColorTexture.convert("RGB")) == mesh.texture).all()
    assert len(model.faces) == len(mesh.faces)
    with pytest.raises(ValueError, match="'jpeg', 'png' or 'webp'"):
        to_glb(mesh, image_format="tiff")
