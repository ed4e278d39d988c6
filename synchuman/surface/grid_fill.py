"""Hidden walls, cavities and floaters removed on the grid, before a surface is extracted from it."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from synchuman.surface.voxel_field import VoxelField, find

LOGGER = logging.getLogger(__name__)

# Smallest |sdf| after filling: keeps the new sign of a value that was zero.
MIN_DISTANCE = 1e-4
# A body is closed up with the larger ball when the smaller one gets into rooms of this share of its volume.
LEAK_SHARE = 0.01


def fill_hidden(field: VoxelField, radii: tuple[int, ...] = (1, 2, 4), min_share: float = 0.02) -> VoxelField:
    """Make inside all that a ball rolling around the field cannot reach, and drop small separate parts.

    A thin shell of voxels has a second, inner surface, decoded shells have pinholes, and noise leaves
    cavities and specks; after this one closed surface is left around each part. A small ball keeps creases
    open; if it slips through a hole into a room that the next larger one cannot enter, that one is taken.

    Args:
        field: The averaged field.
        radii: Ball radii in cells to try in turn, ascending. 0 lets the outside in through any gap.
        min_share: Parts smaller than this share of the largest one become outside.

    Returns:
        A field of the same voxels. Its vertices are those of `field` and all inside ones, also those that no
        voxel touches (at sdf -1); those on the grid's border are outside. `field` itself if none is inside.
    """
    negative = field.sdf < 0
    if not bool(negative.any()):
        return field
    keys = field.keys
    position = keys.decode(field.vertices)
    low = position[negative].min(0).values
    high = position[negative].max(0).values
    margin = max(radii) + 2
    solid = np.zeros(tuple((high - low + 1 + 2 * margin).tolist()), dtype=bool)
    solid[tuple((position[negative] - low + margin).T.cpu().numpy())] = True

    closed = _close(solid, radii)
    kept = _large_parts(closed, min_share)
    LOGGER.debug("Filled %d grid vertices, dropped %d", (kept & ~solid).sum(), (solid & ~kept).sum())

    filled = torch.from_numpy(np.argwhere(kept)).to(position) + low - margin
    # A surface through the grid's border would end there in an open rim.
    filled = filled[((filled > 0) & (filled < keys.resolution)).all(1)]
    inside = keys.encode(filled)
    vertices = torch.unique(torch.cat([field.vertices, inside]))
    index, had = find(field.vertices, vertices)
    size = torch.where(had, field.sdf[index].abs(), 1.0).clamp(min=MIN_DISTANCE)
    _, is_inside = find(inside, vertices)
    return replace(field, vertices=vertices, sdf=torch.where(is_inside, -size.clamp(max=1.0), size))


def _close(solid: np.ndarray, radii: tuple[int, ...]) -> np.ndarray:
    """Return what a ball cannot reach from the rim of the box, with the smallest of `radii` that is tight."""
    rooms = [_ball_rooms(solid, radius) for radius in radii]
    for i, radius in enumerate(radii):
        closed = ~_regrow(rooms[i], radius, ~solid)
        # Room that a larger ball would fit into, which this one reached and that one did not.
        if not any(_leaks(closed, solid, *wider) for wider in zip(radii[i + 1 :], rooms[i + 1 :])):
            return closed
        LOGGER.info("The shell has holes wider than a ball of radius %d", radius)
    raise ValueError("radii must hold at least one radius.")


def _ball_rooms(solid: np.ndarray, radius: int) -> np.ndarray:
    """Return where the centre of a ball coming from the rim can go."""
    labels, _ = ndimage.label(~_dilate(solid, radius))
    return labels == labels[0, 0, 0]


def _regrow(room: np.ndarray, radius: int, empty: np.ndarray) -> np.ndarray:
    """Grow the ball's centres back to the surfaces it stops at."""
    for _ in range(radius + 1 if radius else 0):
        room = _dilate(room, 1) & empty
    return room


def _leaks(closed: np.ndarray, solid: np.ndarray, wider: int, wider_room: np.ndarray) -> bool:
    lost = ~closed & ~wider_room & ~_dilate(solid, wider)
    return int(lost.sum()) > LEAK_SHARE * int(closed.sum())


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Grow a mask by a ball of `radius` cells, Euclidean up to 2; what leaves the box comes in opposite.

    Solids keep a margin from the rim, and the rim itself is all outside: nothing wrong can come of it.
    """
    if radius > 2:  # two smaller balls after each other are nearly as round and much quicker
        return _dilate(_dilate(mask, radius // 2), radius - radius // 2)
    grown = mask.copy()
    flat, out = mask.reshape(-1), grown.reshape(-1)
    sx, sy = mask.shape[1] * mask.shape[2], mask.shape[2]
    reach = range(-radius, radius + 1)
    for dx, dy, dz in product(reach, reach, reach):
        step = dx * sx + dy * sy + dz
        if 0 < dx * dx + dy * dy + dz * dz <= radius * radius:
            if step > 0:
                out[step:] |= flat[:-step]
            else:
                out[:step] |= flat[-step:]
    return grown


def _large_parts(closed: np.ndarray, min_share: float) -> np.ndarray:
    labels, _ = ndimage.label(closed)
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    return (sizes >= max(1.0, min_share * sizes.max()))[labels]
