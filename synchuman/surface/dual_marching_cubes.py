"""The case tables of dual marching cubes, derived from one rule instead of stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

# Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1) along (x, y, z).
CORNERS = tuple((k & 1, k >> 1 & 1, k >> 2 & 1) for k in range(8))
# The decoder's edge weights come in this order; the first corner of an edge is where its direction starts.
EDGES = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
# Face f = 2 * axis + side lies at coordinate `side` of its axis; FACE_STEPS lead to the cube behind it.
FACES = tuple(tuple(k for k in range(8) if CORNERS[k][a] == side) for a in range(3) for side in range(2))
FACE_STEPS = tuple(tuple((2 * side - 1) * (i == a) for i in range(3)) for a in range(3) for side in range(2))


@dataclass(frozen=True)
class Tables:
    """What each of the 256 cases (bit k set: corner k inside) of a cube's signs looks like.

    Attributes:
        patches: [256] int64, dual vertices (closed loops of cut edges) in the cube, 0 to 4.
        patch_of_edge: [256, 12] int64, the loop an edge belongs to; -1 for an edge that is not cut.
        doubtful_face: [256] int64, the face across which two cubes must agree on how an ambiguous face is
            joined; -1 for a case that never has to ask.
    """

    patches: torch.Tensor
    patch_of_edge: torch.Tensor
    doubtful_face: torch.Tensor

    def to(self, device: torch.device) -> Tables:
        """Return the tables on `device`."""
        return Tables(self.patches.to(device), self.patch_of_edge.to(device), self.doubtful_face.to(device))


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Return the tables on the CPU, derived once (Nielson 2004, "Dual marching cubes", for the patches).

    On each face of the cube the cut edges are joined in pairs; every closed loop that results is one patch.
    A face with four cut edges is ambiguous: there each of the two inside corners joins its own two edges, so
    the inside parts stay separate. In a cube with five or six corners inside and a single ambiguous face one
    loop passes that face twice; `doubtful_face` marks it. Two such cubes on either side of the face would be
    joined by two edges there between the same pair of dual vertices, which is not a manifold.
    """
    loops = [_loops(case) for case in range(256)]
    patch_of_edge = torch.full((256, 12), -1, dtype=torch.int64)
    for case, found in enumerate(loops):
        for patch, loop in enumerate(found):
            patch_of_edge[case, list(loop)] = patch
    return Tables(
        patches=torch.tensor([len(found) for found in loops]),
        patch_of_edge=patch_of_edge,
        doubtful_face=torch.tensor([_doubtful_face(case) for case in range(256)]),
    )


def _inside(case: int, corner: int) -> bool:
    return bool(case >> corner & 1)


def _cut_edges(case: int, face: tuple[int, ...]) -> list[int]:
    """List the cut edges of a face, or of the whole cube if `face` names all corners."""
    return [
        e
        for e, (a, b) in enumerate(EDGES)
        if a in face and b in face and _inside(case, a) != _inside(case, b)
    ]


def _joints(case: int) -> list[tuple[int, int]]:
    """List the pairs of cut edges that a face of the cube joins."""
    pairs = []
    for face in FACES:
        cut = _cut_edges(case, face)
        if len(cut) == 2:
            pairs.append((cut[0], cut[1]))
        elif len(cut) == 4:
            for corner in (k for k in face if _inside(case, k)):
                first, second = (e for e in cut if corner in EDGES[e])
                pairs.append((first, second))
    return pairs


def _loops(case: int) -> list[set[int]]:
    """Gather the cut edges into loops, ordered by their first edge."""
    joints = _joints(case)
    left = _cut_edges(case, tuple(range(8)))
    loops = []
    while left:
        loop, size = {left[0]}, 0
        while len(loop) > size:
            size = len(loop)
            for a, b in joints:
                if a in loop or b in loop:
                    loop |= {a, b}
        loops.append(loop)
        left = [e for e in left if e not in loop]
    return loops


def _doubtful_face(case: int) -> int:
    ambiguous = [f for f, face in enumerate(FACES) if len(_cut_edges(case, face)) == 4]
    return ambiguous[0] if len(ambiguous) == 1 and case.bit_count() in (5, 6) else -1
