"""The wardrobe: MakeHuman clothes read, bound, worn by generated people."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from synchuman.training.people.cages import triangulate
from synchuman.training.people.mhclo import read_clothes, read_mhclo, read_obj
from synchuman.training.people.person import make_person
from synchuman.training.people.wardrobe import open_wardrobe, slot
from synchuman.training.render import vertex_normals

BODY = Path("training-data/body.npz")
needs_body = pytest.mark.skipif(
    not BODY.is_file(), reason="no exported body; see synchuman.training.people.export_body"
)

OBJ = """v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 5 0 0
v 6 0 0
v 5 1 0
f 1/1 2/2 3/3 4/4
f -3//1 -2//2 -1//3
"""
MHCLO = """# a comment
basemesh hm08
tag Casual Male
name square
obj_file square.obj
x_scale 0 1 2.0
z_scale 0 2 4.0
verts 0
material square.mhmat
0 1 2 0.5 0.25 0.25 1.0 2.0 3.0
0 1 2 1.0 0.0 0.0 0.0 0.0 0.0
1
2
0 1 2 -0.5 1.0 0.5 0.0 0.0 0.0
0
0

delete_verts
3 5 - 7 9
11
"""


def parse(mhclo: str = MHCLO, obj: str = OBJ):
    return read_mhclo(mhclo, PurePosixPath("clothes/square/square.mhclo"), lambda name: obj)


def test_reader_understands_the_format():
    clothes = parse()
    assert clothes.name == "square" and {"casual", "male", "clothes"} <= clothes.tags
    assert clothes.rows[2].tolist() == [1, 1, 1] and clothes.shares[2].tolist() == [1, 0, 0]
    assert clothes.hidden.tolist() == [3, 5, 6, 7, 9, 11]
    assert clothes.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [4, 5, 6]]
    assert clothes.sections.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert slot(clothes) == "outfit"


def test_fit_follows_and_grows_with_the_body():
    clothes = parse()
    # Body axes: x left, y back, z up. The file's z (to the front) grows with our y.
    body = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, -0.4, 0.8]])
    fitted = clothes.fit(body)
    base = 0.25 * body[1] + 0.25 * body[2]
    offset = torch.tensor([1.0 * 0.4 / 2, -3.0 * 0.4 / 4, 2.0 * 0.1])  # no y_scale: decimetres
    assert torch.allclose(fitted[0], base + offset, atol=1e-6)
    assert torch.equal(fitted[2], body[1])
    assert torch.allclose(fitted[4], body[1] + 0.5 * body[2])
    grown = clothes.fit(body * 2)
    assert torch.allclose(grown[0] - 2 * base, offset * torch.tensor([2.0, 2.0, 1.0]), atol=1e-6)


def test_pieces_of_equal_size_are_one_section():
    faces = "f 1 2 3\nf 4 5 6\nf 7 8 9 10\n"
    count, triangles = read_obj("v 0 0 0\n" * 10 + faces)
    assert (count, len(triangles)) == (10, 4)
    rows = "".join(f"{i}\n" for i in range(10))
    clothes = parse(f"obj_file a.obj\nverts 0\n{rows}", "v 0 0 0\n" * 10 + faces)
    assert clothes.sections.tolist() == [1] * 6 + [0] * 4


@pytest.mark.parametrize(
    ("mhclo", "message"),
    [
        (MHCLO.replace("\n0\n0\n", "\n0\n"), "binds 6 vertices"),
        (MHCLO.replace("1.0 2.0 3.0", "1.0 2.0"), "expected 1 or 9 numbers"),
        (MHCLO.replace("x_scale 0 1 2.0", "x_scale 0"), "damaged line: x_scale 0"),
        ("name nothing\n", "no verts in it"),
    ],
)
def test_damaged_files_are_named(mhclo: str, message: str):
    with pytest.raises(ValueError, match=message) as error:
        parse(mhclo)
    assert "square.mhclo" in str(error.value)


def test_folder_and_archive_give_the_same_clothes(tmp_path: Path):
    folder = tmp_path / "library" / "shoes" / "square"
    folder.mkdir(parents=True)
    (folder / "square.mhclo").write_text(MHCLO)
    with pytest.raises(ValueError, match=r"square\.obj is missing"):
        read_clothes(tmp_path / "library")
    (folder / "square.obj").write_text(OBJ)
    archive = tmp_path / "library.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "library", "library")
    (one,), (two,) = read_clothes(tmp_path / "library"), read_clothes(archive)
    assert np.array_equal(one.offsets, two.offsets) and np.array_equal(one.hidden, two.hidden)
    assert slot(one) == slot(two) == "shoes"
    with pytest.raises(FileNotFoundError, match=r"holds no \.mhclo"):
        (tmp_path / "empty").mkdir()
        read_clothes(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="not found"):
        read_clothes(tmp_path / "nowhere")


def body_rows() -> np.ndarray:
    """The body vertices that belong to the skin."""
    with np.load(BODY) as data:
        return np.unique(data["quads_body"])


def write_vest(folder: Path) -> None:
    """An outfit made here: the body's own trunk faces, 1 cm off along the normals."""
    with np.load(BODY) as data:
        template, quads = data["template"], data["quads_body"]
    centre = template[quads].mean(1)
    chosen = quads[(np.abs(centre[:, 0]) < 0.15) & (np.abs(centre[:, 2] - 0.35) < 0.15)]
    rows, faces = np.unique(chosen, return_inverse=True)
    normals = vertex_normals(torch.from_numpy(template), torch.from_numpy(triangulate(quads)))
    away = normals.numpy()[rows] * 0.1  # decimetres
    lines = [f"{r} {r} {r} 1 0 0 {x:.5f} {z:.5f} {-y:.5f}" for r, (x, y, z) in zip(rows, away)]
    hidden = " ".join(str(row) for row in rows)
    header = "name vest\nobj_file vest.obj\nverts 0\n"
    (folder / "vest.mhclo").write_text(header + "\n".join(lines) + f"\ndelete_verts\n{hidden}\n")
    corners = [" ".join(str(i + 1) for i in face) for face in faces.reshape(-1, 4)]
    (folder / "vest.obj").write_text("v 0 0 0\n" * len(rows) + "".join(f"f {c}\n" for c in corners))


@needs_body
def test_some_people_wear_it_and_the_others_stay_as_they_were(tmp_path: Path):
    write_vest(tmp_path)
    wardrobe = open_wardrobe(tmp_path, BODY)
    dressed = 0
    for seed in range(8):
        plain, person = make_person(seed), make_person(seed, wardrobe=wardrobe)
        again = make_person(seed, wardrobe=wardrobe)
        assert torch.equal(person.vertices, again.vertices) and person.materials == again.materials
        if person.outfit.name != "vest":
            assert torch.equal(person.vertices, plain.vertices) and person.materials == plain.materials
            continue
        dressed += 1
        rows = torch.from_numpy(wardrobe.by_slot["outfit"][0].clothes.rows[:, 0])
        start = int(person.skin.min() - torch.from_numpy(body_rows()).min())
        away = person.vertices[: len(rows)] - person.vertices[start + rows]
        outward = vertex_normals(person.vertices, person.skin)[start + rows]
        assert (away * outward).sum(1).min() > 0.0029
        assert away.norm(dim=1).max() < 0.025
        worn = set(map(tuple, person.triangles.tolist()))
        hidden = sum(tuple(triangle) not in worn for triangle in person.skin.tolist())
        assert hidden > 100
    assert 1 <= dressed <= 6


@needs_body
def test_clothes_for_another_base_mesh_are_refused(tmp_path: Path):
    (tmp_path / "square.obj").write_text(OBJ)
    (tmp_path / "square.mhclo").write_text(MHCLO.replace("0 1 2 1.0", "0 1 99999 1.0"))
    with pytest.raises(ValueError, match="MakeHuman base mesh hm08"):
        open_wardrobe(tmp_path, BODY)
