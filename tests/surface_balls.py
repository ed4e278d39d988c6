"""Balls with exact surface targets in the format of the training shards."""

import numpy as np

GRID = 64  # voxels per axis; cells are half as large
STEPS = np.stack(np.meshgrid(*(np.arange(3),) * 3, indexing="ij"), -1).reshape(-1, 3)
CHILD_STEPS = np.stack(np.meshgrid(*(np.arange(2),) * 3, indexing="ij"), -1).reshape(-1, 3)
COLOR = np.array([200, 120, 40], np.uint8)


def ball_targets(center, radius):
    """Targets of a ball; center [3] and radius in cells of 1/128."""
    axis = np.arange(GRID)
    voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    # A cube is crossed by the sphere when its corners, or nearly its middle, are on both sides.
    corner = np.linalg.norm(2.0 * voxels[:, None] + 2 * CHILD_STEPS - center, axis=-1) - radius
    occupied = (corner.min(1) < 0) & (corner.max(1) >= 0)
    dense = occupied.reshape(GRID, GRID, GRID)
    near = dense.copy()
    for axis in range(3):
        near |= np.roll(dense, 1, axis) | np.roll(dense, -1, axis)
    keep = near.ravel()
    voxels, occupied = voxels[keep], occupied[keep]
    sdf = np.linalg.norm(2 * voxels[:, None] + STEPS - center, axis=-1) - radius
    out = 2 * voxels[:, None] + CHILD_STEPS + 0.5 - center
    distance = np.linalg.norm(out, axis=-1, keepdims=True)
    normal, offset = out / distance, radius - distance[..., 0]
    color = np.broadcast_to(COLOR, normal.shape)
    return {
        "voxels": voxels.astype(np.uint8),
        "occupied": occupied,
        "sdf": np.round(sdf.clip(-2, 2) * 63.5).astype(np.int8),
        "cell_normal": np.round(normal * 127).astype(np.int8),
        "cell_offset": np.round(offset.clip(-1, 1) * 127).astype(np.int8),
        "cell_color": np.ascontiguousarray(color),
        "cell_valid": np.abs(offset) < 0.9,
    }


def write_balls(folder, balls, size=28, token=28, first=0):
    """Write a people shard and its surface sibling of balls [(center, radius)]."""
    rng = np.random.default_rng(first)
    count = len(balls)
    targets = [ball_targets(np.array(center), radius) for center, radius in balls]
    seeds = np.arange(first, first + count)
    name = f"{first:09d}-{count}-{size}.npz"
    arrays = {key: np.concatenate([t[key] for t in targets]) for key in targets[0]}
    counts = np.array([len(t["voxels"]) for t in targets], np.int32)
    np.savez(folder / f"surface-{name}", seeds=seeds, voxel_counts=counts, **arrays)
    images = {
        key: rng.integers(0, 256, (count, 5, size, size, 3), dtype=np.uint8) for key in ("colors", "normals")
    }
    tokens = rng.integers(0, 256, (count, token, token, 3), dtype=np.uint8)
    np.savez(folder / f"people-{name}", seeds=seeds, token=tokens, **images)
