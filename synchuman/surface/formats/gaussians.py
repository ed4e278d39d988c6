"""Gaussians as the PLY that splat viewers read (Kerbl et al. 2023, 3D Gaussian Splatting)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synchuman.surface.formats.placement import Placement

# Order of the published code's files; degree 0 has no f_rest.
FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
# The turn of `to_y_up`, a quarter about x, as a quaternion, w first.
TURN = (np.sqrt(0.5), -np.sqrt(0.5), 0.0, 0.0)
SMALLEST, OPAQUE = 1e-8, 1 - 1e-6


@dataclass(frozen=True)
class GaussianCloud:
    """Coloured gaussians in the z-up unit cube; arrays float32.

    Attributes:
        means: [n, 3] centres.
        scales: [n, 3] standard deviations along the own axes, of the cube's side.
        rotations: [n, 4] unit quaternions, w first.
        opacities: [n, 1] in [0, 1].
        sh_dc: [n, 3] coefficients of degree 0.
    """

    means: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacities: np.ndarray
    sh_dc: np.ndarray


def to_gaussian_ply(cloud: GaussianCloud, placement: Placement) -> bytes:
    """Write gaussians where the model stands: y-up metres, log scales, logit opacities."""
    opacity = np.clip(cloud.opacities.astype(np.float64), SMALLEST, OPAQUE)
    rows = np.concatenate(
        [
            placement.world(cloud.means),
            np.zeros_like(cloud.means),
            cloud.sh_dc,
            np.log(opacity / (1 - opacity)),
            np.log(np.maximum(cloud.scales.astype(np.float64) * placement.scale, SMALLEST)),
            turned(cloud.rotations),
        ],
        axis=1,
    )
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *(f"property float {name}" for name in FIELDS),
        "end_header\n",
    ]
    return "\n".join(lines).encode() + rows.astype("<f4").tobytes()


def turned(rotations: np.ndarray) -> np.ndarray:
    """Turn orientations [n, 4] as `to_y_up` turns points: the quaternion product TURN * rotation."""
    w, x, y, z = (rotations[:, i].astype(np.float64) for i in range(4))
    a, b, _, _ = TURN
    return np.stack([a * w - b * x, a * x + b * w, a * y - b * z, a * z + b * y], axis=1)
