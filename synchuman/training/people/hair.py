"""Hair, hats, bags and glasses: parts made on the scalp and rigid pieces carried by a bone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.cages import Cage
from synchuman.training.people.noise import noise
from synchuman.training.people.tailor import Fitting, Part, cut_part
from synchuman.training.render import vertex_normals

# Thickness of the hair on top and at the back, roughness, in metres.
STYLES: dict[str, tuple[float, float, float]] = {
    "cropped": (0.005, 0.004, 0.0008),
    "short": (0.016, 0.010, 0.003),
    "swept": (0.030, 0.012, 0.004),
    "afro": (0.055, 0.05, 0.006),
    "bob": (0.016, 0.016, 0.003),
    "long": (0.014, 0.014, 0.003),
    "bun": (0.009, 0.008, 0.002),
}
LONG_STYLES = ("bob", "long")
BOB_END, LONG_END = 0.76, 0.45


def hairline(x: np.ndarray, style: str) -> np.ndarray:
    """Height [N] above which the scalp carries hair, at reference positions [N, 3]."""
    knots = [-0.2, -0.115, -0.085, -0.06, -0.03, 0.005, 0.03, 0.06]
    heights = [0.968, 0.962, 0.945, 0.905, 0.912, 0.905, 0.83, 0.805]
    if style in LONG_STYLES:
        heights = [0.968, 0.960, 0.93, 0.88, 0.85, 0.84, 0.81, 0.80]
    return np.interp(x[:, 1], knots, heights)


def around_ears(x: np.ndarray) -> np.ndarray:
    """Which reference positions [N, 3] of the head belong to the ears."""
    return (np.abs(x[:, 0]) > 0.0785) & (x[:, 2] < 0.914) & (x[:, 1] < 0.012)


def scalp_part(cage: Cage, posed: Tensor, style: str, offset: float, material: int, under_hat: bool) -> Part:
    """The hair that lies on the head, pressed flat under a hat."""
    x = cage.reference
    x_np = x.cpu().numpy()
    ragged = 0.004 * noise(x, 45.0, offset)[:, 0].cpu().numpy()
    above = x_np[:, 2] - hairline(x_np, style) + ragged
    if style not in LONG_STYLES:
        above = np.where(around_ears(x_np), -0.004, above)
    top, back, rough = (min(value, 0.009) for value in STYLES[style]) if under_hat else STYLES[style]
    base = cage.loose(posed) if style == "afro" else cage.tight(posed)
    everything = torch.from_numpy(cage.all_triangles).to(base.device)
    normals = vertex_normals(base, everything)
    up = ((x[:, 2] - 0.93) / 0.08).clamp(0, 1)
    thickness = back + (top - back) * up
    if style == "swept":
        thickness = thickness + 0.02 * up * ((-x[:, 1] - 0.02) / 0.08).clamp(0, 1)
    edge = torch.from_numpy(np.clip(above / 0.035, 0.12, 1)).to(base)
    locks = noise(x, (70.0, 70.0, 25.0), offset)[:, 1] + 0.6 * noise(x, 130.0, offset + 0.4)[:, 2]
    vertices = base + normals * (thickness * edge + rough * locks * edge + 0.0015)[:, None]
    return cut_part(vertices, cage, above, material)


def curtain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface long hair is cut from, on the reference body: a sheet around back and sides of the head.

    Returns:
        Vertices [V, 3], triangles [F, 3], and each vertex's angle from the back of the head [V].
    """
    z, angle = np.meshgrid(np.linspace(0.985, LONG_END - 0.05, 44), np.linspace(-2.2, 2.2, 57), indexing="ij")
    grow = np.interp(z, [0.45, 0.72, 0.86, 0.95, 0.985], [1.1, 1.08, 1.06, 0.98, 0.75])
    x = 0.094 * grow * np.sin(angle)
    y = -0.045 + 0.12 * grow * np.cos(angle)
    vertices, triangles = sheet(np.stack([x, y, z], -1))
    return vertices, triangles, angle.ravel()


def hanging_part(
    rest: Tensor, transforms: Tensor, style: str, offset: float, material: int, fitting: Fitting
) -> Part:
    """Hair that hangs around the face (bob) or down the back (long), over what is worn.

    Args:
        rest: [V, 3] the curtain's vertices on the person at rest.
        transforms: [2, 3, 4] of head and upper spine; the hair follows the one above and the other below.
    """
    points, triangles, angle = curtain()
    x = torch.from_numpy(points).to(rest)
    end = BOB_END if style == "bob" else LONG_END + 0.12 * offset
    wave = noise(x, (22.0, 22.0, 3.0), offset)
    locks = noise(x, (60.0, 60.0, 6.0), offset + 0.2)[:, 1]
    reach = np.interp(points[:, 2], [0.69, 0.78], [1.3, 2.0 + 0.2 * offset])
    keep = (np.abs(angle) < reach) & (points[:, 2] > end + 0.02 * wave[:, 0].cpu().numpy())
    low = ((0.86 - x[:, 2]) / 0.2).clamp(0, 1)[:, None]
    both = rest @ transforms[:, :, :3].transpose(1, 2) + transforms[:, None, :, 3]
    vertices = both[0] * (1 - low) + both[1] * low
    outward = torch.nn.functional.normalize(vertices - vertices.mean(0), dim=1)
    down = ((0.97 - x[:, 2]) / 0.1).clamp(0, 1)
    vertices = vertices + outward * ((0.006 * wave[:, 1] + 0.0035 * locks) * down)[:, None]
    vertices = fitting.clear_of_trunk(vertices, "hair", 0.012)
    chosen = triangles[keep[triangles].all(1)]
    return Part(vertices, torch.from_numpy(chosen).to(rest.device), x, material)


def hat_cap(cage: Cage, posed: Tensor, kind: str, material: int) -> Part:
    """The part of a hat that covers the skull."""
    x = cage.reference
    x_np = x.cpu().numpy()
    low = np.interp(x_np[:, 1], [-0.12, 0.06], [0.955, 0.90] if kind == "beanie" else [0.962, 0.93])
    above = np.where(around_ears(x_np), -0.004, x_np[:, 2] - low)
    base = cage.loose(posed)
    everything = torch.from_numpy(cage.all_triangles).to(base.device)
    crown = 0.05 if kind == "brim" else 0.012
    extra = 0.030 + crown * ((x[:, 2] - 0.975) / 0.03).clamp(0, 1)
    vertices = base + vertex_normals(base, everything) * extra[:, None]
    return cut_part(vertices, cage, above, material)


def sheet(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A grid of points [R, C, 3] as vertices and triangles."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    triangles = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    )
    return points.reshape(-1, 3), triangles.astype(np.int32)


def ellipsoid(
    centre: tuple[float, ...], radii: tuple[float, ...], power: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A superellipsoid: power 1 is an ellipsoid, smaller is boxier."""
    v, u = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 17), np.linspace(-np.pi, np.pi, 33), indexing="ij")

    def curve(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** power

    points = np.stack(
        [curve(np.cos(v)) * curve(np.cos(u)), curve(np.cos(v)) * curve(np.sin(u)), curve(np.sin(v))], -1
    )
    return sheet(np.asarray(centre) + points * np.asarray(radii))


def ring(
    centre: tuple[float, ...], across: np.ndarray, up: np.ndarray, tube: float, turn: float = 2 * np.pi
) -> tuple[np.ndarray, np.ndarray]:
    """A tube along an ellipse spanned by the vectors `across` and `up`."""
    v, u = np.meshgrid(np.linspace(0, 2 * np.pi, 7), np.linspace(0, turn, 25), indexing="ij")
    out = across * np.cos(u)[..., None] + up * np.sin(u)[..., None]
    axis = np.cross(across, up)
    axis = axis / np.linalg.norm(axis)
    radial = out / np.linalg.norm(out, axis=-1, keepdims=True)
    return sheet(
        np.asarray(centre) + out + tube * (radial * np.cos(v)[..., None] + axis * np.sin(v)[..., None])
    )


def brim(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The brim of a cap (in front) or of a hat (all around), on the reference head."""
    span = 0.9 if kind == "cap" else np.pi
    width = 0.075 if kind == "cap" else 0.085
    r, u = np.meshgrid(np.linspace(0.0, 1.0, 5), np.linspace(-span, span, 41), indexing="ij")
    taper = np.cos(u / span * np.pi / 2) ** 0.5 if kind == "cap" else np.ones_like(u)
    reach = r * width * taper - 0.015
    x = np.sin(u) * (0.098 + reach)
    y = -np.cos(u) * (0.122 + reach) - 0.045
    z = 0.957 - 0.012 * r - (0.02 * (u / span) ** 2 if kind == "cap" else -0.01 * np.cos(u))
    return sheet(np.stack([x, y, z], -1))


def glasses() -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames of a pair of glasses on the reference head."""
    x, z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    pieces = [ring((sign * 0.034, -0.168, 0.899), x * 0.024, z * 0.019, 0.0022) for sign in (1, -1)]
    pieces.append(ring((0.0, -0.17, 0.90), x * 0.011, z * 0.004, 0.002, np.pi))
    pieces += [ellipsoid((sign * 0.074, -0.1, 0.902), (0.0022, 0.07, 0.0025)) for sign in (1, -1)]
    return pieces


def lenses() -> list[tuple[np.ndarray, np.ndarray]]:
    """Dark lenses of sunglasses on the reference head."""
    return [ellipsoid((sign * 0.034, -0.167, 0.899), (0.024, 0.004, 0.019)) for sign in (1, -1)]


def bag(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """A backpack with straps, or a shoulder bag with its strap, on the reference body."""
    y, z, x = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    if kind == "backpack":
        straps = [ring((s * 0.11, 0.0, 0.53), y * 0.155, z * 0.185, 0.012) for s in (1, -1)]
        return [ellipsoid((0.0, 0.2, 0.47), (0.15, 0.085, 0.22), 0.5), *straps]
    strap = ring((0.035, -0.02, 0.42), x * 0.23 - z * 0.31, y * 0.155, 0.009)
    return [ellipsoid((0.27, 0.0, 0.08), (0.05, 0.13, 0.10), 0.5), strap]


def rescale(x: Tensor, reference: Tensor, rest: Tensor) -> Tensor:
    """Points [N, 3] on the reference body, taken to a person at rest by the extents of one region of both."""
    scale = (rest.amax(0) - rest.amin(0)) / (reference.amax(0) - reference.amin(0))
    return (x - reference.mean(0)) * scale + rest.mean(0)


def rigid_part(
    piece: tuple[np.ndarray, np.ndarray], reference: Tensor, rest: Tensor, transform: Tensor, material: int
) -> Part:
    """Carry a piece made on the reference body to a posed person.

    Args:
        piece: Vertices and triangles on the reference body.
        reference, rest: [n, 3] the same body region on the reference body and on the person at rest.
        transform: [3, 4] of the bone that carries it.
    """
    x = torch.from_numpy(piece[0]).to(reference)
    moved = rescale(x, reference, rest)
    vertices = moved @ transform[:, :3].T + transform[:, 3]
    return Part(vertices, torch.from_numpy(piece[1]).to(reference.device), x, material)
