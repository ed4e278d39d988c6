"""Where a model stands in a file: y-up metres for screens, z-up millimetres for printers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEIGHT = 1.7  # metres
MILLIMETRES = 1000.0


def to_y_up(vectors: np.ndarray) -> np.ndarray:
    """Turn z-up vectors [..., 3], front towards -y, into y-up ones, front towards +z: (x, z, -y)."""
    return np.stack([vectors[..., 0], vectors[..., 2], -vectors[..., 1]], axis=-1)


def to_z_up(vectors: np.ndarray) -> np.ndarray:
    """Undo `to_y_up`."""
    return np.stack([vectors[..., 0], -vectors[..., 2], vectors[..., 1]], axis=-1)


@dataclass(frozen=True)
class Placement:
    """How points of the z-up cube come into the y-up world.

    Attributes:
        scale: Metres per unit of the cube.
        origin: [3] the point of the turned cube that comes to the world's origin.
    """

    scale: float
    origin: np.ndarray

    @classmethod
    def of(cls, vertices: np.ndarray, height: float = HEIGHT) -> Placement:
        """Place a mesh of vertices [v, 3]: `height` metres tall, feet on y = 0, centred in x and z.

        Raises:
            ValueError: The height is not positive.
        """
        if not height > 0:
            raise ValueError(f"The height of the model must be positive, not {height}.")
        points = to_y_up(vertices.astype(np.float64))
        low, high = points.min(0), points.max(0)
        origin = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        return cls(height / max(high[1] - low[1], 1e-9), origin)

    def world(self, vertices: np.ndarray) -> np.ndarray:
        """Return points [v, 3] of the cube in the world, float32."""
        return ((to_y_up(vertices.astype(np.float64)) - self.origin) * self.scale).astype(np.float32)


def world_vertices(vertices: np.ndarray, height: float = HEIGHT) -> np.ndarray:
    """Place cube vertices [v, 3] in a y-up world: `height` metres tall, feet on y = 0, centred in x and z."""
    return Placement.of(vertices, height).world(vertices)


def print_vertices(vertices: np.ndarray, height: float = HEIGHT) -> np.ndarray:
    """Place cube vertices [v, 3] on a printer's bed: z-up millimetres, front towards -y, none negative."""
    points = vertices.astype(np.float64) * (Placement.of(vertices, height).scale * MILLIMETRES)
    return (points - points.min(0)).astype(np.float32)
