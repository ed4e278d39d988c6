"""The five stored views of a person: colour, normals and coverage, as the networks see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synchuman.surface.voxelize import surface_voxels
from synchuman.training.people.fabrics import colours
from synchuman.training.people.person import Person
from synchuman.training.render import Hits, rasterize, vertex_normals
from synchuman.views import BACK, FACE, FACE_COLUMNS, FACE_ROWS, FRONT, LEFT, NUM_VIEWS, RIGHT

VOXELS = 64
SUPERSAMPLING = 2


@dataclass
class Scene:
    """A person placed in the unit cube.

    Attributes:
        person: The person; `vertices` below replace its own.
        vertices: [V, 3] in the cube: the front view's bounding box centred, its longest side 1; see `middle`.
        normals: [V, 3] unit normals.
        occlusion: [V] share of ambient light that reaches the vertex, 0 to 1.
        occupancy: [64, 64, 64] bool, voxels the surface touches.
        triangles: [F, 3] int32.
    """

    person: Person
    vertices: Tensor
    normals: Tensor
    occlusion: Tensor
    occupancy: Tensor
    triangles: Tensor


def place(person: Person) -> Scene:
    """Scale and centre a person as the method frames people, and compute what shading needs."""
    used = torch.zeros(len(person.vertices), dtype=torch.bool, device=person.vertices.device)
    used[person.triangles.flatten().long()] = True
    seen = person.vertices[used]
    low, high = seen.amin(0), seen.amax(0)
    extent = torch.maximum(high[0] - low[0], high[2] - low[2])
    centre = (low + high) / 2
    centre[1] = middle(person.vertices, person.triangles, low[1], high[1], extent)
    vertices = (person.vertices - centre) / extent
    normals = vertex_normals(vertices, person.triangles)
    occupancy = surface_voxels(vertices, person.triangles, VOXELS)
    return Scene(
        person, vertices, normals, ambient(occupancy, vertices, normals), occupancy, person.triangles
    )


def middle(vertices: Tensor, triangles: Tensor, low: Tensor, high: Tensor, extent: Tensor) -> Tensor:
    """Find the depth that becomes 0: the surface's mean depth, so that the body and not a limb decides it.

    A photo does not tell how far a hand or a foot reaches toward the camera. Were the bounding box centred,
    as along the other axes, the whole person would be as uncertain as that hand.

    Args:
        vertices: [V, 3] of a person.
        triangles: [F, 3] int32.
        low: Scalar, least y of the surface; `high` the greatest.
        high: See `low`.
        extent: Scalar, side of the cube in the vertices' units, in which the person has to stay.
    """
    corners = vertices[triangles.long()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    mean = (area * corners[..., 1].mean(1)).sum() / area.sum()
    if high - low >= extent:
        return (low + high) / 2
    return mean.clamp(high - extent / 2, low + extent / 2)


def ambient(occupancy: Tensor, vertices: Tensor, normals: Tensor) -> Tensor:
    """Ambient light [V] at each vertex: how empty the grid is in front of it, near by and farther away."""
    grid = occupancy.float()[None, None]
    light = torch.ones(len(vertices), device=vertices.device)
    grid = torch.nn.functional.avg_pool3d(grid, 2)
    for width, reach, strength in ((3, 0.045, 0.8), (5, 0.09, 1.1)):
        blurred = torch.nn.functional.avg_pool3d(grid, width, 1, width // 2, count_include_pad=True)
        at = (vertices + normals * reach) * 2
        sampled = torch.nn.functional.grid_sample(
            blurred, at.flip(1)[None, :, None, None], align_corners=False
        )
        light = light - strength * sampled[0, 0, :, 0, 0]
    return light.clamp(0.25, 1.0)


def body_hits(scene: Scene, side: int) -> list[Hits | None]:
    """What the five views see at `side` pixels, in stored order; two rasterisations serve two views each."""
    v = scene.vertices
    row = (0.5 - v[:, 2]) * side
    hits: list[Hits | None] = [None] * NUM_VIEWS
    front = torch.stack([(v[:, 0] + 0.5) * side, row, -v[:, 1]], dim=1)
    hits[FRONT], hits[BACK] = rasterize(front, scene.triangles, side, side, both=True)
    right = torch.stack([(v[:, 1] + 0.5) * side, row, v[:, 0]], dim=1)
    hits[RIGHT], hits[LEFT] = rasterize(right, scene.triangles, side, side, both=True)
    zoom_columns = side / (FACE_COLUMNS[1] - FACE_COLUMNS[0])
    zoom_rows = side / (FACE_ROWS[1] - FACE_ROWS[0])
    face = torch.stack(
        [
            (v[:, 0] + 0.5 - FACE_COLUMNS[0]) * zoom_columns,
            (0.5 - v[:, 2] - FACE_ROWS[0]) * zoom_rows,
            -v[:, 1],
        ],
        dim=1,
    )
    hits[FACE] = rasterize(face, scene.triangles, side, side)[0]
    return hits


TOWARD = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def facing(normals: Tensor, toward: Tensor) -> Tensor:
    """Unit normals turned to the camera's side (the inside of a sleeve faces whoever sees it)."""
    normals = torch.nn.functional.normalize(normals, dim=1)
    return torch.where((normals * toward).sum(1, keepdim=True) < 0, -normals, normals)


def shaded(
    person: Person, values: Tensor, identity: Tensor, toward: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours of surface points as the views show them.

    Args:
        person: Whose materials they have.
        values: [N, 7] reference position, normal and ambient light.
        identity: [N] material.
        toward: [N, 3] vectors to the side they are seen from.
        gain: [3], see `render_views`.

    Returns:
        Colours [N, 3], 0 to 1, and unit normals [N, 3] turned to `toward`.
    """
    normals = facing(values[:, 3:6], toward)
    shade = (1.12 * values[:, 6:]).clamp(max=1.0) * (0.88 + 0.12 * normals[:, 2:3])
    return (colours(person.materials, identity, values[:, :3]) * shade * gain).clamp(0, 1), normals


def render_views(scene: Scene, size: int, gain: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Render the five views.

    Args:
        scene: The placed person.
        size: Pixels a side.
        gain: [3] exposure and white balance, the same as the photo's, so that views match its colours.

    Returns:
        Colours and normals, uint8 [5, size, size, 3], white where there is nobody. Normal images hold
        (n_x, n_z, -n_y) in the front camera's frame for all views.
    """
    side = size * SUPERSAMPLING
    person = scene.person
    views = [hits for hits in body_hits(scene, side) if hits is not None]
    counts = [len(hits.pixels) for hits in views]
    triangles = scene.triangles.long()
    toward = torch.cat([scene.vertices.new_tensor(TOWARD[i]).expand(n, 3) for i, n in enumerate(counts)])
    attributes = torch.cat([person.reference, scene.normals, scene.occlusion[:, None]], dim=1)
    values = torch.cat([hits.interpolate(attributes, triangles) for hits in views])
    identity = torch.cat([person.identity[triangles[hits.faces, 0]] for hits in views])
    lit, normals = shaded(person, values, identity, toward, gain)
    packed = torch.cat(
        [lit, torch.stack([normals[:, 0], normals[:, 2], -normals[:, 1]], dim=1) * 0.5 + 0.5], dim=1
    )
    canvas = torch.ones(NUM_VIEWS, side * side, 6, device=packed.device)
    for view, (hits, pixels) in enumerate(zip(views, packed.split(counts))):
        canvas[view, hits.pixels] = pixels
    shrunk = canvas.view(NUM_VIEWS, size, SUPERSAMPLING, size, SUPERSAMPLING, 6).mean((2, 4))
    images = (shrunk * 255 + 0.5).clamp(0, 255).to(torch.uint8).cpu().numpy()
    return images[..., :3], images[..., 3:]
