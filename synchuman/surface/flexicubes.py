"""From per-voxel features to a coloured mesh: FlexiCubes on just the cubes that the surface crosses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from synchuman.surface.dual_marching_cubes import CORNERS, EDGES, FACE_STEPS, tables
from synchuman.surface.voxel_field import (
    WEIGHTS,
    Keys,
    VoxelField,
    average_attributes,
    average_field,
    check_voxels,
    find,
    surface_cubes,
)


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with colours, in the z-up unit cube of `synchuman.views`.

    Attributes:
        vertices: [v, 3] float32, within half a cell of [-0.5, 0.5].
        faces: [f, 3] int64, counter-clockwise seen from outside (positive sdf).
        colors: [v, 6] float32 in [0, 1]: sRGB colour, then the surface normal as a colour.
    """

    vertices: torch.Tensor
    faces: torch.Tensor
    colors: torch.Tensor


@dataclass(frozen=True)
class DualVertices:
    """The vertices of a dual mesh, before they are connected; differentiable in all but which edges are cut.

    Attributes:
        values: [v, 3 + c] float32, position in the unit cube, then the interpolated attributes.
        case: [s] the case of each cube by its signs.
        base: [s + 1] the number of each cube's first dual vertex, then their total.
        patch_of_edge: [s, 12] the dual vertex within the cube that each edge belongs to, -1 if it is not cut.
    """

    values: torch.Tensor
    case: torch.Tensor
    base: torch.Tensor
    patch_of_edge: torch.Tensor


def extract(coords: torch.Tensor, feats: torch.Tensor, resolution: int) -> Mesh:
    """Extract the mesh of one sample.

    Args:
        coords: [n, 4] integers (batch, x, y, z) in [0, resolution), all of one batch, none twice.
        feats: [n, 101] features of the mesh decoder, without the sdf bias.
        resolution: Cells along each side of the grid, 256 for the published decoder.

    Returns:
        The mesh; without vertices and faces where no sdf is negative.

    Raises:
        ValueError: For wrong shapes, coordinates out of the grid, repeated voxels, several batches or sdf
            values that are not finite.
    """
    return extract_field(average_field(coords, feats, resolution))


def extract_batch(coords: torch.Tensor, feats: torch.Tensor, resolution: int) -> list[Mesh]:
    """Extract one mesh per sample; arguments as in `extract`, with batches numbered from 0."""
    check_voxels(coords, feats, resolution)
    count = int(coords[:, 0].max()) + 1 if len(coords) else 0
    chosen = (coords[:, 0] == b for b in range(count))
    return [extract(coords[c], feats[c], resolution) for c in chosen]


def extract_field(field: VoxelField) -> Mesh:
    """Extract the mesh of a field, averaging colour and deformation only where the surface passes."""
    keys = field.keys
    cubes = surface_cubes(field)
    steps = torch.tensor([keys.step(c) for c in CORNERS], device=cubes.device)
    vertices, corners = torch.unique(cubes[:, None] + steps, return_inverse=True)
    index, hit = find(field.vertices, vertices)
    sdf = torch.where(hit, field.sdf[index], 1.0) if len(field.sdf) else torch.ones_like(vertices).float()
    deform, color = average_attributes(field, vertices)
    index, hit = find(field.voxels, cubes)
    weights = torch.zeros(len(cubes), WEIGHTS.stop - WEIGHTS.start, device=cubes.device)
    weights[hit] = field.feats[field.rows[index[hit]], WEIGHTS].float()
    positions = keys.decode(cubes)
    return dual_mesh(positions, corners, sdf, deform, color.sigmoid(), weights, keys.resolution)


def dual_mesh(
    cubes: torch.Tensor,
    corners: torch.Tensor,
    sdf: torch.Tensor,
    deform: torch.Tensor,
    color: torch.Tensor,
    weights: torch.Tensor,
    resolution: int,
) -> Mesh:
    """Extract the mesh from the cubes the surface crosses (Shen et al. 2023, FlexiCubes, section 4).

    A loop of cut edges in a cube is one dual vertex, the beta-weighted mean of the edges' crossings; these
    use the sdf scaled by alpha. Each cut grid edge with four cubes around it is a quad between their dual
    vertices, split along the diagonal with the larger product of gammas.

    Args:
        cubes: [s, 3] integer positions of **all** cubes with corners of both signs, ascending in (x, y, z).
        corners: [s, 8] indices of their corners among the grid vertices.
        sdf: [u] float32 at the grid vertices, negative inside.
        deform: [u, 3] raw displacement; tanh of it times half a cell is added to the grid position.
        color: [u, c] attributes to interpolate.
        weights: [s, 21] raw: beta of 12 edges, alpha of 8 corners, gamma; zeros where there is no voxel.
        resolution: Cells along each side of the grid.

    Returns:
        The mesh with `colors` [v, c]; dual vertices come in the order of their cubes.
    """
    dual = blend_crossings(cubes, corners, sdf, deform, color, weights, resolution)
    gamma = 0.99 * weights[:, 20].sigmoid() + 0.005
    faces = _faces(cubes, dual.case, dual.base[:-1], dual.patch_of_edge, gamma, Keys(resolution))
    return Mesh(dual.values[:, :3].contiguous(), faces, dual.values[:, 3:].contiguous())


def blend_crossings(
    cubes: torch.Tensor,
    corners: torch.Tensor,
    sdf: torch.Tensor,
    deform: torch.Tensor,
    color: torch.Tensor,
    weights: torch.Tensor,
    resolution: int,
) -> DualVertices:
    """Return the dual vertices that `dual_mesh` connects; arguments as there."""
    case, patch_base, patch_of_edge = _dual_vertices(cubes, corners, sdf, Keys(resolution))
    total = int(patch_base[-1]) if len(patch_base) else 0
    lattice = torch.zeros_like(deform)
    lattice[corners] = (cubes[:, None] + torch.tensor(CORNERS, device=cubes.device)).to(deform.dtype)
    position = lattice / resolution - 0.5 + (1 - 1e-8) / (2 * resolution) * deform.tanh()
    values = torch.cat([position, color], dim=1)

    beta = 0.99 * weights[:, :12].tanh() + 1
    alpha = 0.99 * weights[:, 12:20].tanh() + 1
    blended = values.new_zeros(total, values.shape[1])
    share = values.new_zeros(total, 1)
    first = patch_base[:-1]
    # One edge at a time: no call writes a dual vertex twice, so the sums are reproducible on a GPU.
    for e, (a, b) in enumerate(EDGES):
        cut = (patch_of_edge[:, e] >= 0).nonzero().squeeze(1)
        va, vb = corners[cut, a], corners[cut, b]
        wa, wb = (sdf[va] * alpha[cut, a])[:, None], (sdf[vb] * alpha[cut, b])[:, None]
        crossing = (values[va] * wb - values[vb] * wa) / (wb - wa)
        target = first[cut] + patch_of_edge[cut, e]
        weight = beta[cut, e, None]
        blended.index_add_(0, target, crossing * weight)
        share.index_add_(0, target, weight)
    blended /= share
    return DualVertices(blended, case, patch_base, patch_of_edge)


def _dual_vertices(
    cubes: torch.Tensor, corners: torch.Tensor, sdf: torch.Tensor, keys: Keys
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Classify the cubes.

    Returns:
        The case of each cube by its signs [s], the number of its first dual vertex followed by their total
        [s + 1], and the dual vertex within the cube that each edge belongs to [s, 12], -1 if it is not cut.
    """
    table = tables().to(cubes.device)
    bits = torch.tensor([1 << k for k in range(8)], device=cubes.device)
    case = ((sdf[corners] < 0) * bits).sum(1)
    face = table.doubtful_face[case]
    asking = (face >= 0).nonzero().squeeze(1)
    cube_keys = keys.encode(cubes)
    steps = torch.tensor([keys.step(s) for s in FACE_STEPS], device=cubes.device)
    neighbour, hit = find(cube_keys, cube_keys[asking] + steps[face[asking]])
    swapped = asking[hit & (face[neighbour] >= 0)] if len(asking) else asking
    joined = case.clone()
    # Seen from the other side the two inside corners of the shared face are joined, in both cubes alike.
    joined[swapped] = 255 - case[swapped]
    base = torch.zeros(len(cubes) + 1, dtype=torch.int64, device=cubes.device)
    torch.cumsum(table.patches[joined], 0, out=base[1:])
    return case, base, table.patch_of_edge[joined]


def _faces(
    cubes: torch.Tensor,
    case: torch.Tensor,
    first: torch.Tensor,
    patch_of_edge: torch.Tensor,
    gamma: torch.Tensor,
    keys: Keys,
) -> torch.Tensor:
    """Connect the four cubes around each cut grid edge; edges on the grid border have fewer, thus none."""
    cube_keys = keys.encode(cubes)
    triangles = []
    for axis in range(3):
        u, v = (i for i in range(3) if i != axis)
        local = {(i, j): _local_edge(axis, u, v, 1 - i, 1 - j) for i in range(2) for j in range(2)}
        # Every edge is met once, from the cube at its lower side on both other axes.
        at = (patch_of_edge[:, local[0, 0]] >= 0).nonzero().squeeze(1)
        ring, complete = [], torch.ones_like(at, dtype=torch.bool)
        for i, j in ((0, 0), (0, 1), (1, 1), (1, 0)):
            index, hit = find(cube_keys, cube_keys[at] + i * keys.strides[u] + j * keys.strides[v])
            ring.append((index, local[i, j]))
            complete &= hit
        start = EDGES[local[0, 0]][0]
        outside_first = (case[at] >> start & 1)[complete] == 0
        quad_cube = torch.stack([index[complete] for index, _ in ring], dim=1)
        quad_edge = torch.tensor([e for _, e in ring], device=cubes.device)
        quad = first[quad_cube] + patch_of_edge[quad_cube, quad_edge]
        weight = gamma[quad_cube]
        flip = ~outside_first[:, None]
        quad, weight = torch.where(flip, quad.flip(1), quad), torch.where(flip, weight.flip(1), weight)
        even = (weight[:, 0] * weight[:, 2] > weight[:, 1] * weight[:, 3])[:, None]
        triangles.append(torch.where(even, quad[:, [0, 1, 2, 0, 2, 3]], quad[:, [0, 1, 3, 1, 2, 3]]))
    return torch.cat(triangles).reshape(-1, 3)


def _local_edge(axis: int, u: int, v: int, at_u: int, at_v: int) -> int:
    """Return the number of a cube's edge along `axis` at the corner coordinates `at_u` and `at_v`."""
    for e, (a, b) in enumerate(EDGES):
        p, q = CORNERS[a], CORNERS[b]
        if p[axis] != q[axis] and (p[u], p[v]) == (at_u, at_v) == (q[u], q[v]):
            return e
    raise ValueError(f"A cube has no edge along axis {axis} at {at_u}, {at_v}.")
