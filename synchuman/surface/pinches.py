"""Places where a closed surface touches itself, cut apart so that it is a manifold again."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# How far the copies of a vertex are moved into their own parts, so that no reader merges them again.
APART = 2e-5
ROUNDS = 8  # a face on several such edges is split once a round


def cut_pinches(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a closed oriented mesh apart along edges of more than two faces and at vertices of several fans.

    Edge collapse identifies vertices. That keeps a surface closed, every edge being run through as often one
    way as the other, but may press a thin neck together to an edge of four faces, or two faces onto each
    other. Here, faces that lie on each other back to back are dropped, the faces around an edge are joined
    in pairs that have the inside between them, and every fan of joined faces gets a vertex of its own
    (Guéziec et al. 1998, "Converting sets of polygons to manifold surfaces by cutting and stitching").

    Args:
        vertices: [v, 3].
        faces: [f, 3]; faces with a corner twice are dropped.

    Returns:
        Vertices [v', 3] and faces [f', 3] int32, watertight if the mesh was closed; unused vertices are left
        out. Other meshes keep their open edges.
    """
    vertices, faces = np.asarray(vertices, np.float64), _drop_flat(np.asarray(faces, np.int64), len(vertices))
    for _ in range(ROUNDS):
        vertices, faces, pairs = _cut(vertices, faces)
        vertices, faces, crowded = _split_edges(vertices, faces, pairs)
        if not crowded:
            break
    return vertices, faces.astype(np.int32)


def _cut(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every fan its vertex; also return the paired half-edges [k, 2] of edges of more than two faces.

    Half-edge 3 f + i runs from corner i of face f to the next corner.
    """
    start, end = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    key = low * len(vertices) + high
    order = np.argsort(key, kind="stable")
    edge = np.cumsum(np.append(0, key[order][1:] != key[order][:-1]))
    count = np.bincount(edge)
    plain = order[count[edge] == 2].reshape(-1, 2)
    plain = plain[start[plain[:, 0]] != start[plain[:, 1]]]
    groups = np.split(order[count[edge] > 2], np.cumsum(count[count > 2])[:-1]) if (count > 2).any() else []
    crowded = np.concatenate(
        [
            np.zeros((0, 2), np.int64),
            *(_pair(vertices, faces, g, low[g[0]], high[g[0]], start) for g in groups),
        ]
    )
    first, second = np.concatenate([plain, crowded]).T
    # Joined half-edges run in opposite directions: the start of one is the end of the other.
    follow = np.arange(len(start)) // 3 * 3 + (np.arange(len(start)) + 1) % 3
    rows, columns = np.concatenate([first, follow[first]]), np.concatenate([follow[second], second])
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(start),) * 2)
    fans, fan = connected_components(graph, directed=False)
    origin = np.zeros(fans, np.int64)
    origin[fan] = start
    cut = fan.reshape(-1, 3).astype(np.int64)
    points = vertices[origin]
    copies = np.flatnonzero(np.bincount(origin, minlength=len(vertices))[origin] > 1)
    if len(copies):
        points[copies] += _inward(vertices, cut, origin, copies)
    return points, cut, crowded


def _split_edges(
    vertices: np.ndarray, faces: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Give pairs of half-edges that still share both ends with another pair a vertex in their middle.

    Where the faces around an edge belong to one fan at both of its ends, there are two edges between two
    vertices, which no list of faces can tell apart.
    """
    start, end = faces.ravel()[pairs], faces[:, [1, 2, 0]].ravel()[pairs]
    ends = np.sort(np.stack([start[:, 0], end[:, 0]], axis=1), axis=1)
    _, index, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    index = index.ravel()
    points: list[np.ndarray] = []
    halves: list[tuple[int, int, int]] = []
    whole = np.ones(len(faces), bool)
    for row in np.flatnonzero(count[index] > 1):
        owners = pairs[row] // 3
        # One pair may keep the edge; a face is split once a round.
        if count[index[row]] == 1 or not whole[owners].all():
            continue
        count[index[row]] -= 1
        whole[owners] = False
        middle = len(vertices) + len(points)
        apexes = faces[owners, (pairs[row] + 2) % 3]
        point = vertices[ends[row]].mean(0)
        step = vertices[apexes].mean(0) - point
        points.append(point + APART * step / max(float(np.linalg.norm(step)), 1e-20))
        for a, b, c in zip(start[row], end[row], apexes):
            halves += [(a, middle, c), (middle, b, c)]
    if not points:
        return vertices, faces, False
    return np.concatenate([vertices, points]), np.concatenate([faces[whole], halves]), True


def _drop_flat(faces: np.ndarray, count: int) -> np.ndarray:
    """Drop faces with a corner twice, and pairs of faces with the same corners in opposite order."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    smallest = faces.argmin(1)
    turned = np.take_along_axis(faces, (smallest[:, None] + np.arange(3)) % 3, axis=1)
    even = turned[:, 1] < turned[:, 2]
    key = (turned[:, 0] * count + turned[:, 1:].min(1)) * count + turned[:, 1:].max(1)
    order = np.lexsort((even, key))
    group = np.cumsum(np.append(0, key[order][1:] != key[order][:-1]))
    size = np.bincount(group)
    if not len(faces) or size.max() == 1:
        return faces
    balance = np.bincount(group, np.where(even[order], 1, -1)).astype(np.int64)
    # Of n faces one way round and m the other, n - m stay.
    place = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    odd_count = (size - balance) // 2
    from_odd = (balance < 0)[group] & (place < -balance[group])
    from_even = (balance > 0)[group] & (place >= odd_count[group]) & (place < (odd_count + balance)[group])
    return faces[np.sort(order[from_odd | from_even])]


def _pair(
    vertices: np.ndarray, faces: np.ndarray, group: np.ndarray, low: int, high: int, start: np.ndarray
) -> np.ndarray:
    """Pair the half-edges of one edge, each with the one that lies behind its face; [k, 2]."""
    axis = vertices[high] - vertices[low]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-20)
    apex = vertices[faces[group // 3, (group + 2) % 3]] - vertices[low]
    across = apex - (apex @ axis)[:, None] * axis
    side = np.eye(3)[np.abs(axis).argmin()]
    u = np.cross(axis, side)
    angle = np.arctan2(across @ np.cross(axis, u), across @ u)
    turn = group[np.argsort(angle, kind="stable")]
    forward = start[turn] == low
    # Seen along the edge, the inside lies at larger angles from a face that runs backward through it.
    pairs: list[tuple[int, int]] = []
    waiting: list[int] = []
    for half, ahead in [*zip(turn, forward), *zip(turn, forward)]:
        if any(half in pair for pair in pairs):
            continue
        if not ahead and half not in waiting:
            waiting.append(half)
        elif ahead and waiting:
            pairs.append((waiting.pop(), half))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _inward(vertices: np.ndarray, cut: np.ndarray, origin: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Steps [n, 3] that move copies of vertices a little towards the middle of their own fans."""
    wanted = np.zeros(len(origin), bool)
    wanted[copies] = True
    near = cut[wanted[cut].any(1)]
    middle = vertices[origin[near]].mean(1)
    total, number = np.zeros((len(origin), 3)), np.zeros(len(origin))
    for corner in range(3):
        np.add.at(total, near[:, corner], middle)
        np.add.at(number, near[:, corner], 1)
    step = total[copies] / number[copies, None] - vertices[origin[copies]]
    return APART * step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-20)
