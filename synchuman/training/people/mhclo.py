"""MakeHuman clothes (.mhclo and .obj): geometry bound to the vertices of the base mesh, read from files.

Each vertex of a clothes mesh is a barycentric combination of three vertices of the MakeHuman base mesh "hm08"
plus an offset. Offsets are in decimetres on the base mesh's axes (x to the person's left, y up, z to the
front) and grow with the person: each axis is multiplied by the distance of two reference vertices along it,
divided by the distance given in the file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

# The file's axes (x, y, z) on ours, where z is up and the person faces -y.
AXES, SIGNS = (0, 2, 1), (1.0, -1.0, 1.0)
UNIT = 0.1


@dataclass(frozen=True)
class Scale:
    """How one axis of the offsets grows: with the distance of two body vertices, relative to `distance`."""

    first: int
    second: int
    distance: float


@dataclass
class Clothes:
    """One clothes mesh and how it hangs on the body.

    Attributes:
        name: As the file calls it.
        tags: Words of its tags and of its folder, lower case.
        rows: [N, 3] int64 body vertices each vertex is bound to.
        shares: [N, 3] float32 barycentric weights; they may lie outside 0 to 1.
        offsets: [N, 3] float32 on the body's axes (x left, y back, z up), before scaling.
        scales: For x, y and z of the body; None where the file names none (offsets are then decimetres).
        triangles: [F, 3] int32, counter-clockwise from outside.
        hidden: Body vertices that lie under it.
        sections: [N] int64 connected pieces, see `sections`.
    """

    name: str
    tags: frozenset[str]
    rows: np.ndarray
    shares: np.ndarray
    offsets: np.ndarray
    scales: tuple[Scale | None, ...]
    triangles: np.ndarray
    hidden: np.ndarray
    sections: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sections = sections(self.triangles, len(self.rows))

    def fit(self, body: Tensor) -> Tensor:
        """Vertices [N, 3] on body vertices [V, 3] at rest, in metres."""
        rows, shares, offsets = (
            torch.from_numpy(a).to(body.device) for a in (self.rows, self.shares, self.offsets)
        )
        grow = [
            body.new_tensor(UNIT)
            if scale is None
            else (body[scale.first, axis] - body[scale.second, axis]).abs() / scale.distance
            for axis, scale in enumerate(self.scales)
        ]
        return (body[rows] * shares[..., None]).sum(1) + offsets * torch.stack(grow)


def sections(triangles: np.ndarray, count: int) -> np.ndarray:
    """Number of each vertex's connected piece, from the largest on: [count]; equal sizes share a number."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]]])
    graph = sp.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count))
    _, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece)
    order = np.unique(-sizes, return_inverse=True)[1]
    return order[piece].astype(np.int64)


def vertex_ranges(line: str) -> list[int]:
    """Vertex numbers of a line like "3 5 - 8 12"."""
    numbers: list[int] = []
    words = iter(line.split())
    for word in words:
        if word == "-":
            numbers += range(numbers[-1] + 1, int(next(words)) + 1)
        else:
            numbers.append(int(word))
    return numbers


def is_number(word: str) -> bool:
    """Whether a word begins like a number."""
    return word.lstrip("+-.")[:1].isdigit()


def read_obj(text: str) -> tuple[int, np.ndarray]:
    """Number of vertices and triangles [F, 3] int32 of an .obj; polygons become fans."""
    count, triangles = 0, []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            count += 1
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) for word in words[1:]]
            corners = [c - 1 if c > 0 else count + c for c in corners]
            triangles += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
    return count, np.asarray(triangles, np.int32).reshape(-1, 3)


def read_mhclo(text: str, where: PurePosixPath, read: Callable[[str], str]) -> Clothes:
    """Read one clothes file.

    Args:
        text: The .mhclo.
        where: Its path, for its tags and for errors.
        read: Gives the text of the file that `obj_file` names (beside the .mhclo).

    Raises:
        ValueError: The file is damaged, or the .obj does not fit it.
    """
    name, obj = where.stem, ""
    tags = {part.lower() for part in where.parent.parts}
    scales: list[Scale | None] = [None] * 3
    bindings: list[list[float]] = []
    hidden: list[int] = []
    state = ""
    try:
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            key = words[0]
            if is_number(key):
                if state == "verts":
                    values = [float(word) for word in words]
                    if len(values) == 1:  # the body vertex itself
                        values = [values[0]] * 3 + [1.0] + [0.0] * 5
                    if len(values) != 9:
                        raise ValueError(f"{where}: expected 1 or 9 numbers in: {line}")
                    bindings.append(values)
                elif state == "delete_verts":
                    hidden += vertex_ranges(line)
            elif key in ("verts", "delete_verts", "weights"):
                state = key
            elif key in ("x_scale", "y_scale", "z_scale"):
                axis = AXES["xyz".index(key[0])]
                scales[axis] = Scale(int(words[1]), int(words[2]), float(words[3]))
            elif key == "obj_file":
                obj = line.split(None, 1)[1].strip()
            elif key == "name":
                name = line.split(None, 1)[1].strip()
            elif key == "tag":
                tags |= {word.lower() for word in words[1:]}
    except (IndexError, StopIteration) as error:
        raise ValueError(f"{where}: damaged line: {line}") from error
    if not bindings or not obj:
        missing = "obj_file" if bindings else "verts"
        raise ValueError(f"{where}: no {missing} in it; is it a MakeHuman .mhclo?")
    count, triangles = read_obj(read(obj))
    if count != len(bindings):
        raise ValueError(f"{where}: binds {len(bindings)} vertices, but {obj} has {count}")
    table = np.asarray(bindings)
    return Clothes(
        name=name,
        tags=frozenset(tags),
        rows=table[:, :3].astype(np.int64),
        shares=table[:, 3:6].astype(np.float32),
        offsets=(table[:, 6:][:, list(AXES)] * SIGNS).astype(np.float32),
        scales=tuple(scales),
        triangles=triangles,
        hidden=np.asarray(hidden, np.int64),
    )


def read_clothes(path: Path) -> list[Clothes]:
    """Read all clothes of a folder or of a tar archive, in the order of their paths.

    Raises:
        FileNotFoundError: `path` is not there, or names no clothes.
        ValueError: A file in it is damaged.
    """
    files: dict[PurePosixPath, Callable[[], bytes]]
    if not path.exists():
        raise FileNotFoundError(f"{path} not found; give a folder or .tgz of .mhclo and .obj files")
    if path.is_dir():
        files = {
            PurePosixPath(file.relative_to(path).as_posix()): file.read_bytes
            for file in path.rglob("*")
            if file.suffix in (".mhclo", ".obj")
        }
        return _read_all(files, path)
    with tarfile.open(path) as archive:
        members = {PurePosixPath(m.name): m for m in archive.getmembers() if m.isfile()}
        files = {
            name: lambda member=member: archive.extractfile(member).read()  # type: ignore[misc, union-attr]
            for name, member in members.items()
        }
        return _read_all(files, path)


def _read_all(files: dict[PurePosixPath, Callable[[], bytes]], path: Path) -> list[Clothes]:
    clothes = []
    for where in sorted(name for name in files if name.suffix == ".mhclo"):

        def read(obj: str, folder: PurePosixPath = where.parent) -> str:
            if folder / obj not in files:
                raise ValueError(f"{path}: {folder / obj} is missing; .mhclo and .obj belong together")
            return files[folder / obj]().decode(errors="replace")

        clothes.append(read_mhclo(files[where]().decode(errors="replace"), where, read))
    if not clothes:
        raise FileNotFoundError(f"{path} holds no .mhclo; give a folder or .tgz with MakeHuman clothes")
    return clothes
