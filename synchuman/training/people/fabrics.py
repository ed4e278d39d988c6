"""Materials: colour of cloth, skin, eyes and hair as functions of the position on the reference body."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.noise import noise

Colour = tuple[float, float, float]

SKIN_TONES: tuple[Colour, ...] = (
    (0.96, 0.82, 0.74),
    (0.93, 0.76, 0.65),
    (0.86, 0.66, 0.53),
    (0.75, 0.55, 0.41),
    (0.58, 0.40, 0.29),
    (0.46, 0.31, 0.23),
    (0.36, 0.245, 0.185),
)
HAIR_TONES: tuple[Colour, ...] = (
    (0.05, 0.045, 0.04),
    (0.09, 0.07, 0.06),
    (0.17, 0.11, 0.08),
    (0.30, 0.19, 0.12),
    (0.46, 0.32, 0.19),
    (0.72, 0.57, 0.35),
    (0.48, 0.22, 0.12),
    (0.55, 0.55, 0.55),
    (0.82, 0.81, 0.79),
)
PATTERNS = (
    "plain",
    "stripes",
    "pinstripes",
    "checks",
    "dots",
    "blotches",
    "print",
    "denim",
    "knit",
    "gradient",
)
PATTERN_SHARES = (0.46, 0.08, 0.04, 0.08, 0.03, 0.05, 0.08, 0.08, 0.07, 0.03)


@dataclass(frozen=True)
class Material:
    """How a part is coloured.

    Attributes:
        kind: One of PATTERNS, or "skin", "eye", "hair".
        colours: Up to three colours in linear-looking display values, 0 to 1.
        frequency: Pattern repeats per metre.
        offset: Shifts pattern and noise; makes each person's cloth its own.
        grain: Contrast of the fine noise.
        gloss: Share of specular light in photos.
        placket: Draw a buttoned front edge at the body's mid line.
    """

    kind: str
    colours: tuple[Colour, ...]
    frequency: float = 20.0
    offset: float = 0.0
    grain: float = 0.05
    gloss: float = 0.04
    placket: bool = False


def cloth_colour(rng: np.random.Generator) -> Colour:
    """A garment colour: greys and muted tones are commoner than saturated ones, as in wardrobes."""
    value = float(rng.uniform(0.08, 0.95))
    if rng.random() < 0.25:
        return (value, value * 0.99, value * 0.97)
    saturation = float(rng.random() ** 1.3) * 0.85
    return colorsys.hsv_to_rgb(float(rng.random()), saturation, value)


def draw_cloth(rng: np.random.Generator, kind: str | None = None, placket: bool = False) -> Material:
    """Draw a cloth material, of the pattern `kind` if given."""
    chosen = kind or str(rng.choice(PATTERNS, p=np.asarray(PATTERN_SHARES) / sum(PATTERN_SHARES)))
    colours = tuple(cloth_colour(rng) for _ in range(3))
    if chosen == "denim":
        depth = float(rng.uniform(0.25, 1.3))
        colours = tuple((0.24 * depth, 0.33 * depth, 0.5 * depth) for _ in range(3))
        if rng.random() < 0.25:
            colours = ((0.13, 0.13, 0.15),) * 3
    frequency = float(np.exp(rng.uniform(np.log(6), np.log(28))))
    grain = float(rng.uniform(0.01, 0.045))
    gloss = float(rng.choice([0.02, 0.04, 0.15], p=[0.6, 0.3, 0.1]))
    return Material(chosen, colours, frequency, float(rng.random()), grain, gloss, placket)


def band(phase: Tensor, share: float, softness: float) -> Tensor:
    """1 inside a periodic band that fills `share` of each unit of `phase`, soft at its edges."""
    distance = (torch.remainder(phase, 1.0) - 0.5).abs() - share / 2
    return torch.sigmoid(-distance / softness)


def disc(u: Tensor, v: Tensor, softness: float = 0.08) -> Tensor:
    """1 inside the unit circle, soft at its edge."""
    return torch.sigmoid((1 - torch.hypot(u, v)) / softness)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Blend two colours ([3] or [N, 3]) by [N] shares."""
    return first + (second - first) * share[:, None]


def cloth(material: Material, x: Tensor, fields: Tensor) -> Tensor:
    """Colours [N, 3] of a cloth at reference positions x [N, 3]; `fields` is fine noise [N, 4]."""
    a, b, c = (x.new_tensor(material.colours[i % len(material.colours)]) for i in range(3))
    f, shift = material.frequency, material.offset
    kind = material.kind
    base = a.expand(len(x), 3)
    if kind == "stripes":
        base = mix(a, b, band(x[:, 2] * f + shift, 0.3 + 0.4 * shift, 0.03))
    elif kind == "pinstripes":
        base = mix(a, b, band((x[:, 0] + 0.3 * x[:, 1]) * f * 1.5 + shift, 0.15, 0.05) * 0.7)
    elif kind == "checks":
        across = band(x[:, 0] * f * 0.7 + 0.25 * x[:, 1] * f, 0.5, 0.03)
        up = band(x[:, 2] * f * 0.7, 0.5, 0.03)
        base = mix(mix(a, b, 0.5 * (across + up)), c, band(x[:, 2] * f * 0.7 + 0.25, 0.08, 0.03) * 0.6)
    elif kind == "dots":
        u = torch.remainder(x[:, 0] * f * 0.8, 1.0) - 0.5
        v = torch.remainder(x[:, 2] * f * 0.8, 1.0) - 0.5
        base = mix(a, b, disc(u / 0.28, v / 0.28))
    elif kind == "blotches":
        coarse = noise(x, f * 0.8, shift + 0.5)
        base = mix(mix(a, b, torch.sigmoid(coarse[:, 0] * 6 - 2)), c, torch.sigmoid(coarse[:, 1] * 6 - 4))
    elif kind == "print":
        height = x[:, 2] - 0.45 - 0.05 * shift
        inside = disc(x[:, 0] / (0.07 + 0.05 * shift), height / 0.08, 0.04) * (x[:, 1] < 0.0)
        stamp = torch.sigmoid(noise(x, 14.0, shift + 0.2)[:, 0] * 8)
        base = mix(base, mix(b, c, stamp), inside)
    elif kind == "denim":
        worn = torch.sigmoid(noise(x, (5.0, 5.0, 3.0), shift)[:, 0] * 2 - 1.5)
        base = base * (1 + 0.35 * worn[:, None] + 0.09 * fields[:, 1:2])
    elif kind == "knit":
        base = base * (0.88 + 0.16 * band(x[:, 0] * 90 + x[:, 1] * 60, 0.5, 0.15))[:, None]
    elif kind == "shoe":
        base = mix(base, b, torch.sigmoid((SOLE - x[:, 2]) / 0.0015))
        base = mix(
            base,
            0.6 * a + 0.3 * b,
            disc(x[:, 1] * 0 + 0.9 * (x[:, 1] + 0.09) / 0.05, (x[:, 0].abs() - 0.2) / 0.02) * 0.6,
        )
    elif kind == "gradient":
        base = mix(a, b, torch.sigmoid((x[:, 2] - 0.2 + 0.3 * shift) * 6))
    if material.placket:
        front = (x[:, 1] < 0.0) & (x[:, 2] > -0.8)
        edge = torch.sigmoid((0.0035 - (x[:, 0] - 0.014).abs()) / 0.0012) * front
        buttons = disc(x[:, 0] / 0.008, (torch.remainder(x[:, 2], 0.085) - 0.04) / 0.008, 0.15) * front
        base = base * (1 - 0.35 * edge)[:, None]
        base = mix(base, 0.25 + 0.5 * c, buttons * 0.8)
    return base * (1 + material.grain * fields[:, :1])


def hair(material: Material, x: Tensor, fields: Tensor) -> Tensor:
    """Colours [N, 3] of hair: streaks that run down."""
    streaks = noise(x, (150.0, 150.0, 12.0), material.offset)[:, :1] * 0.13 + fields[:, :1] * 0.04
    return x.new_tensor(material.colours[0]) * (1 + streaks.clamp(-0.3, 0.3)) + 0.02 * streaks


def eye(material: Material, x: Tensor) -> Tensor:
    """Colours [N, 3] of an eyeball; the first colour is the iris.

    The reference eyeballs have their centres at `EYE_CENTRE` (x mirrored); the iris looks to -y.
    """
    centre = x.new_tensor(EYE_CENTRE)
    across = torch.hypot(x[:, 0].abs() - centre[0], x[:, 2] - centre[2]) / EYE_RADIUS
    white = x.new_tensor([0.88, 0.86, 0.84])
    iris = torch.sigmoid((0.46 - across) / 0.03)
    pupil = torch.sigmoid((0.2 - across) / 0.03)
    return mix(mix(white, x.new_tensor(material.colours[0]), iris), x.new_tensor([0.02, 0.02, 0.02]), pupil)


EYE_CENTRE: Colour = (0.0314, -0.1292, 0.9038)
EYE_RADIUS = 0.0155


def skin(material: Material, x: Tensor, fields: Tensor) -> Tensor:
    """Colours [N, 3] of skin with lips, brows, blush, and the make-up, beard or gloves drawn for the person.

    Colours are (skin, brows and beard, lips); `frequency` is the beard's strength, 0 to 1.
    """
    tone, dark, lips = (x.new_tensor(colour) for colour in material.colours)
    base = tone * (1 + 0.035 * fields[:, :1] + 0.04 * noise(x, 9.0, material.offset)[:, :1])
    face = x[:, 1] < FACE_PLANE
    across, up = x[:, 0].abs(), x[:, 2]
    blush = (
        disc((across - 0.045) / 0.03, (up - CHEEK) / 0.028, 0.4)
        + disc(across / 0.016, (up - NOSE) / 0.016, 0.4)
    ) * face
    base = mix(base, base * x.new_tensor([1.03, 0.86, 0.84]), blush.clamp(0, 1))
    mouth = disc(across / 0.026, (up - MOUTH + 0.001) / (0.0115 * (1.1 - across / 0.05)), 0.12) * face
    base = mix(base, lips, mouth * 0.85)
    line = torch.sigmoid((0.0009 - (up - MOUTH).abs()) / 0.0005) * (across < 0.022) * face
    base = mix(base, base * 0.45, line)
    arch = BROW + 0.005 * torch.sin((across - 0.012) / 0.04 * 2.4) - 0.002
    brow = torch.sigmoid((0.0034 - (up - arch).abs()) / 0.0011)
    brow = brow * torch.sigmoid((across - 0.014) / 0.002) * torch.sigmoid((0.056 - across) / 0.003) * face
    base = mix(base, dark, brow * 0.85)
    lashes = disc((across - EYE_CENTRE[0]) / 0.0165, (up - EYE_CENTRE[2]) / 0.0085, 0.12) * face
    base = mix(base, base * 0.5, lashes * 0.8)
    if material.frequency > 0:
        jaw = torch.sigmoid((MOUTH + 0.012 - up) / 0.004) + disc(
            across / 0.03, (up - MOUTH - 0.013) / 0.007, 0.2
        )
        jaw = jaw.clamp(0, 1) * (x[:, 1] < BEARD_PLANE) * (up > MOUTH - 0.075) * (1 - mouth)
        base = mix(base, dark, jaw * material.frequency * (0.85 + 0.15 * fields[:, 1]).clamp(0, 1))
    return base


SOLE = -0.812
FACE_PLANE, BEARD_PLANE = -0.1, -0.05
BROW, CHEEK, NOSE, MOUTH = 0.922, 0.868, 0.864, 0.831


def colours(materials: list[Material], identity: Tensor, x: Tensor) -> Tensor:
    """Colours [N, 3] in 0 to 1 at reference positions x [N, 3]; `identity` [N] indexes the materials."""
    result = torch.zeros_like(x)
    fields = noise(x, 160.0, 0.0)
    for index, material in enumerate(materials):
        rows = torch.nonzero(identity == index)[:, 0]
        if not len(rows):
            continue
        at, fine = x[rows], fields[rows]
        if material.kind == "skin":
            shade = skin(material, at, fine)
        elif material.kind == "eye":
            shade = eye(material, at)
        elif material.kind == "hair":
            shade = hair(material, at, fine)
        else:
            shade = cloth(material, at, fine)
        result[rows] = shade
    return result.clamp(0, 1)
