"""Files that a finished run is handed out as: opened again by others, closed, to scale, in the right colours."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import surface_person
import trimesh
from PIL import Image

from synchuman.exports import FORMATS, ExportError, export, offers
from synchuman.runfolder import RunFolder, RunFolderError
from synchuman.surface.formats.gaussians import FIELDS, GaussianCloud, to_gaussian_ply
from synchuman.surface.formats.glb import to_glb
from synchuman.surface.formats.placement import Placement
from synchuman.surface.formats.printing import to_stl
from synchuman.surface.formats.read import read_glb
from synchuman.surface.mesh import DenseMesh, TexturedMesh, is_watertight, weld

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"seed": 7, "faces": 12_000}
RECORD = {
    "status": "done", "created": "2026-01-01T00:00:00+00:00", "variant": "mini", "device": "cpu",
    "dtype": "float32", "stage2": True, "seed": 7, "settings": SETTINGS, "seconds": {"texture": 1.5},
    "versions": {"torch": "2.9"}, "warnings": ["hidden"],
}  # fmt: skip


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    return surface_person.built()


def cloud(count: int = 50) -> GaussianCloud:
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(count, 4))
    return GaussianCloud(
        means=rng.uniform(-0.4, 0.4, (count, 3)).astype(np.float32),
        scales=rng.uniform(1e-3, 1e-2, (count, 3)).astype(np.float32),
        rotations=(turn / np.linalg.norm(turn, axis=1, keepdims=True)).astype(np.float32),
        opacities=rng.uniform(0.01, 0.99, (count, 1)).astype(np.float32),
        sh_dc=rng.normal(size=(count, 3)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def run(mesh, tmp_path_factory) -> Path:
    """The folder of a finished run with gaussians."""
    place = RunFolder(tmp_path_factory.mktemp("run"))
    joined, faces, _ = weld(mesh.vertices, mesh.faces)
    place.write_mesh(DenseMesh(joined, faces))
    place.write_gaussians(cloud())
    place.write_model(to_glb(mesh), mesh.texture)
    place.write_record(RECORD)
    (place.first).mkdir()
    Image.new("RGB", (4, 4)).save(place.first / "color_0.png")
    return place.path


def document(glb: bytes) -> dict:
    return json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])


def true_colors(model: trimesh.Trimesh, mesh: TexturedMesh) -> np.ndarray:
    """What a y-up model's vertices should look like, [v, 3] in 0..255."""
    place = Placement.of(mesh.vertices, float(np.ptp(model.vertices[:, 1])))
    turned = model.vertices / place.scale + place.origin
    return surface_person.color(np.stack([turned[:, 0], -turned[:, 2], turned[:, 1]], 1)) * 255


@pytest.mark.parametrize("texture", ["jpeg", "png", "webp"])
def test_glb_tells_its_making_and_holds_the_texture(run, mesh, texture):
    path = export(run, "glb", texture)
    told = document(path.read_bytes())
    extras = told["asset"]["extras"]
    for name in ("seed", "settings", "variant", "versions", "seconds", "created"):
        assert extras[name] == RECORD[name]
    assert "warnings" not in extras
    assert told["images"][0]["mimeType"] == f"image/{texture}"
    assert ("EXT_texture_webp" in told.get("extensionsRequired", [])) == (texture == "webp")
    back = read_glb(path.read_bytes())
    difference = np.abs(back.texture.astype(int) - mesh.texture)
    assert difference.mean() < (1e-9 if texture == "png" else 2.0)
    assert is_watertight(weld(back.vertices, back.faces)[1])


def test_a_model_read_back_is_the_same(run, mesh):
    back = RunFolder(run).read_model()
    assert (back.faces == mesh.faces).all() and (back.texture == mesh.texture).all()
    scale = np.ptp(mesh.vertices[:, 2])
    assert (
        np.abs((back.vertices - back.vertices.mean(0)) * scale - mesh.vertices + mesh.vertices.mean(0)).max()
        < 1e-5
    )
    assert np.abs(back.uv - mesh.uv).max() < 1e-6
    assert (back.normals * mesh.normals).sum(1).min() > 0.999


def test_obj_is_one_closed_surface_with_its_texture(run, tmp_path):
    with zipfile.ZipFile(export(run, "obj", "png")) as archive:
        assert sorted(archive.namelist()) == ["person.mtl", "person.obj", "person.png"]
        archive.extractall(tmp_path)
    model = trimesh.load(tmp_path / "person.obj", process=False, maintain_order=True)
    assert np.asarray(model.visual.material.image).shape == (1024, 1024, 3)
    assert np.ptp(model.vertices[:, 1]) == pytest.approx(1.7, abs=1e-4)
    lines = (tmp_path / "person.obj").read_text().splitlines()
    faces = np.array(
        [[int(c.split("/")[0]) for c in line.split()[1:]] for line in lines if line.startswith("f ")]
    )
    assert is_watertight(faces - 1)
    colors = model.visual.to_color().vertex_colors[:, :3].astype(float)
    assert np.median(np.abs(colors - true_colors(model, surface_person.built()))) < 8


def test_ply_has_colours_and_normals_on_a_closed_surface(run, mesh):
    model = trimesh.load(export(run, "ply"), process=False)
    assert model.is_watertight and model.volume > 0
    assert np.ptp(model.vertices[:, 1]) == pytest.approx(1.7, abs=1e-4)
    assert np.median(np.abs(model.visual.vertex_colors[:, :3] - true_colors(model, mesh))) < 8
    assert b"property float nx" in export(run, "ply").read_bytes()[:400]


@pytest.mark.parametrize("height", [None, 0.18])
def test_stl_is_for_printers(run, height):
    model = trimesh.load(export(run, "stl", height=height))
    assert model.is_watertight and model.volume > 0
    low, high = model.bounds
    assert np.abs(low).max() < 1e-3 and high[2] == pytest.approx(1000 * (height or 1.7), rel=1e-5)
    # z is up, and the toes point to -y.
    up = model.vertices[:, 2] / high[2]
    shin = model.vertices[(up > 0.1) & (up < 0.25)]
    assert model.vertices[up < 0.06][:, 1].min() < shin[:, 1].min() - 0.02 * high[2]


def test_a_surface_with_holes_is_not_printed(mesh):
    holed = TexturedMesh(mesh.vertices, mesh.faces[10:], mesh.uv, mesh.texture, mesh.normals)
    with pytest.raises(ValueError, match="not closed"):
        to_stl(holed)


def test_3mf_is_for_colour_printers(run, mesh):
    path = export(run, "3mf")
    with zipfile.ZipFile(path) as archive:
        model = ElementTree.fromstring(archive.read("3D/3dmodel.model"))
        picture = Image.open(io.BytesIO(archive.read("3D/Textures/person.jpg")))
    core, material = (
        f"{{http://schemas.microsoft.com/3dmanufacturing/{n}/2015/02}}" for n in ("core", "material")
    )
    assert model.get("unit") == "millimeter" and picture.size == (1024, 1024)
    told = {element.get("name"): element.text for element in model.iter(f"{core}metadata")}
    assert json.loads(told["Description"])["seed"] == 7
    points = np.array([[float(v.get(k)) for k in "xyz"] for v in model.iter(f"{core}vertex")])
    rows = [
        [int(t.get(k)) for k in ("v1", "v2", "v3", "p1", "p2", "p3")] for t in model.iter(f"{core}triangle")
    ]
    faces = np.array(rows)
    assert is_watertight(faces[:, :3]) and trimesh.Trimesh(points, faces[:, :3]).is_watertight
    assert np.abs(points.min(0)).max() == 0 and points[:, 2].max() == pytest.approx(1700, abs=1e-3)
    uv = np.array([[float(c.get("u")), float(c.get("v"))] for c in model.iter(f"{material}tex2coord")])
    assert np.abs(uv[faces[:, 3:]] - [0, 1] - mesh.uv[mesh.faces] * [1, -1]).max() < 1e-5


def test_the_3mf_consortiums_own_reader_is_content(run):
    lib3mf = pytest.importorskip("lib3mf")
    from lib3mf import get_wrapper

    wrapper = get_wrapper()
    model = wrapper.CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromBuffer(export(run, "3mf").read_bytes())
    assert not reader.GetWarningCount()
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    objects = model.GetMeshObjects()
    assert objects.MoveNext()
    assert objects.GetCurrentMeshObject().IsManifoldAndOriented()
    textures = model.GetTexture2Ds()
    assert textures.MoveNext() and not textures.MoveNext()


def test_usdz_is_aligned_and_uncompressed(run):
    path = export(run, "usdz", "png")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        first, second = archive.infolist()
        assert first.filename.endswith(".usda") and second.filename.endswith(".png")
        for entry in (first, second):
            assert entry.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
            assert (entry.header_offset + 30 + name + extra) % 64 == 0


def test_usdz_is_what_pixars_library_calls_valid(run, mesh, tmp_path):
    pytest.importorskip("pxr")
    from pxr import Ar, Usd, UsdGeom, UsdShade, UsdValidation

    def errors(file: Path) -> list[str]:
        names = [about.name for about in registry.GetAllValidatorMetadata()]
        checks = UsdValidation.ValidationContext(registry.GetOrLoadValidatorsByName(names))
        return [error.GetMessage() for error in checks.Validate(Usd.Stage.Open(str(file)))]

    registry = UsdValidation.ValidationRegistry()
    path = export(run, "usdz")
    assert not errors(path)
    with (
        zipfile.ZipFile(path) as good,
        zipfile.ZipFile(tmp_path / "bad.usdz", "w") as bad,
    ):
        bad.writestr("person.usda", good.read("person.usda"))
    assert errors(tmp_path / "bad.usdz")  # not aligned, and without its texture
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    surface = UsdGeom.Mesh(stage.GetPrimAtPath("/person/surface"))
    points = np.array(surface.GetPointsAttr().Get())
    assert np.ptp(points[:, 1]) == pytest.approx(1.7, abs=1e-4)
    assert len(surface.GetFaceVertexCountsAttr().Get()) == len(mesh.faces)
    uv = np.array(UsdGeom.PrimvarsAPI(surface).GetPrimvar("st").Get())
    assert np.abs(uv - [0, 1] - mesh.uv * [1, -1]).max() < 1e-5
    material, _ = UsdShade.MaterialBindingAPI(surface).ComputeBoundMaterial()
    shader, _, _ = material.ComputeSurfaceSource()
    source = shader.GetInput("diffuseColor").GetConnectedSource()[0]
    asset = UsdShade.Shader(source.GetPrim()).GetInput("file").Get()
    picture = bytes(Ar.GetResolver().OpenAsset(Ar.ResolvedPath(asset.resolvedPath)).GetBuffer())
    assert Image.open(io.BytesIO(picture)).size == (1024, 1024)
    assert json.loads(stage.GetRootLayer().customLayerData["about"])["seed"] == 7


def test_gaussians_have_the_field_layout_and_stand_where_the_model_stands(run, mesh):
    data = export(run, "gaussians").read_bytes()
    head, body = data.split(b"end_header\n", 1)
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property float")]
    assert names == list(FIELDS) and len(names) == 17
    rows = np.frombuffer(body, "<f4").reshape(-1, 17).astype(np.float64)
    made = cloud()
    place = Placement.of(mesh.vertices)
    assert np.abs(rows[:, :3] - place.world(made.means)).max() < 1e-5
    assert np.abs(1 / (1 + np.exp(-rows[:, 9])) - made.opacities[:, 0]).max() < 1e-5
    assert (rows[:, 6:9] == made.sh_dc).all()
    # The covariances are turned and scaled like points.
    turn = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) * place.scale

    def covariance(quaternions, scales):
        frame = trimesh.transformations.quaternion_matrix
        axes = np.stack([frame(q)[:3, :3] for q in quaternions.astype(np.float64)])
        return np.einsum("nij,nj,nkj->nik", axes, scales.astype(np.float64) ** 2, axes)

    wanted = turn @ covariance(made.rotations, made.scales) @ turn.T
    assert np.abs(covariance(rows[:, 13:], np.exp(rows[:, 10:13])) - wanted).max() < 1e-8
    assert to_gaussian_ply(made, place) == data


def test_everything_is_one_file(run, monkeypatch):
    from synchuman.surface.formats import turntable

    monkeypatch.setattr(turntable.to_mp4, "__defaults__", (4, 64))
    monkeypatch.setattr(turntable.to_webp, "__defaults__", (4, 64))
    with zipfile.ZipFile(export(run, "zip")) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    wanted = {f"exports/{kind.file}" for kind in FORMATS.values() if kind.name != "zip"}
    assert wanted | {"run.json", "SecondStage/output.glb", "OneStage/color_0.png"} <= names
    assert all(offer.ready and offer.lacking is None for offer in offers(run))


def test_made_once_and_again_for_another_model(run, mesh, tmp_path):
    place = RunFolder(tmp_path / "again")
    place.write_model(to_glb(mesh), mesh.texture)
    first = export(place.path, "stl")
    stamp = first.stat().st_mtime_ns
    assert export(place.path, "stl") == first and first.stat().st_mtime_ns == stamp
    assert export(place.path, "stl", height=0.5).name == "person-500mm.stl"
    os.utime(place.model)  # a newer model
    assert export(place.path, "stl").stat().st_mtime_ns > stamp
    place.write_model(to_glb(mesh), mesh.texture)
    assert not first.exists()
    assert not [path for path in place.path.rglob(".*")]


@pytest.mark.parametrize(
    ("name", "texture", "height", "message"),
    [
        ("fbx", None, None, "no 'fbx'; there are glb"),
        ("obj", "webp", None, "jpeg, png"),
        ("stl", "png", None, "no texture"),
        ("mp4", None, 1.0, "height"),
        ("glb", None, 0.0, "0.01 to 10"),
        ("glb", None, float("nan"), "0.01 to 10"),
    ],
)
def test_what_does_not_go_together_is_refused(run, name, texture, height, message):
    with pytest.raises(ExportError, match=message):
        export(run, name, texture, height)


def test_what_is_missing_is_named(run, mesh, tmp_path):
    with pytest.raises(RunFolderError, match=r"output\.glb is missing"):
        export(tmp_path / "nothing", "glb")
    place = RunFolder(tmp_path / "broken")
    place.second.mkdir(parents=True)
    place.model.write_bytes(b"glTF but no more")
    with pytest.raises(RunFolderError, match="no GLB"):
        export(place.path, "stl")
    assert not place.exports.exists()
    # The published code's own result: no record, no exact texture, its spelling.
    (place.second / "ouput.glb").write_bytes(to_glb(mesh, image_format="png"))
    place.model.unlink()
    extras = document(export(place.path, "glb").read_bytes())["asset"]["extras"]
    assert set(extras) == {"app", "note"}
    with pytest.raises(RunFolderError, match="no gaussians"):
        export(place.path, "gaussians")
    assert [offer.format.name for offer in offers(place.path) if offer.lacking] == ["gaussians"]


def test_from_the_command_line(run, tmp_path):
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "synchuman", "export", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    done = call(str(run), "--format", "glb", "ply", "--height", "1.6")
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == ["person-1600mm.glb", "person-1600mm.ply"]
    assert all(path.is_file() for path in paths)
    refused = call(str(run), "--format", "glb", "stl", "--texture", "png", "--json")
    assert refused.returncode == 3 and "no texture" in refused.stderr
    told = json.loads(refused.stdout)
    assert list(told["files"]) == ["glb"] and "no texture" in told["error"]["message"]
    assert call(str(tmp_path), "--format", "stl").returncode == 3


def test_what_the_gaussian_decoder_gives_is_kept_and_goes_with_its_run(tmp_path):
    import torch

    from synchuman.stage2.gaussian_decoder import Gaussians
    from synchuman.steps import _kept

    made = cloud(8)
    tensors = {name: torch.from_numpy(values) for name, values in vars(made).items()}
    place = RunFolder(tmp_path)
    place.write_gaussians(_kept(Gaussians(**tensors, sizes=(8,))))
    back = place.read_gaussians()
    for name, values in vars(made).items():
        assert (getattr(back, name) == values).all(), name
    place.write_gaussians(None)
    with pytest.raises(RunFolderError, match="no gaussians"):
        place.read_gaussians()
