"""Outfits: which garments a person wears, how they are cut and of what they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from synchuman.training.people.fabrics import HAIR_TONES, Colour, Material, cloth_colour, draw_cloth


@dataclass
class Garment:
    """One garment on a cage; lengths in metres, coordinates as in `body.reference_regions`.

    Attributes:
        name: What it is.
        cage: Cage it is cut from.
        material: Its cloth.
        sleeve: It covers the arm up to here (0 shoulder, 1 elbow, 2 wrist).
        cuff: It covers the leg up to here (0 hip, 1 knee, 2 ankle); negative: not the legs.
        low, high: It covers the trunk between these heights (0 hip joints, 1 base of the neck).
        neckline: Depth of a V below `high` in front.
        opening: Half width of the gap down the front; 0 is closed.
        thickness: Distance from the body.
        looseness: 0 follows the body, 1 hangs over its hollows.
        flare: Extra distance at the hem of sleeves, legs or skirt.
        droop: How far wide sleeves hang down.
        folds: Height of the wrinkles; `pleats` is the number of vertical folds around a skirt.
    """

    name: str
    cage: str
    material: Material
    sleeve: float = -1.0
    cuff: float = -1.0
    low: float = 0.0
    high: float = 1.0
    neckline: float = 0.0
    opening: float = 0.0
    thickness: float = 0.01
    looseness: float = 0.3
    flare: float = 0.0
    droop: float = 0.0
    folds: float = 0.004
    pleats: float = 0.0


@dataclass
class Outfit:
    """Everything worn: garments from the inside out, shoes, hair and headwear."""

    name: str
    garments: list[Garment] = field(default_factory=list)
    hair: str = "short"
    hair_material: Material | None = None
    hat: str = ""
    hat_material: Material | None = None
    shoe_material: Material | None = None
    shoe_height: float = 2.0
    bag: str = ""
    bag_material: Material | None = None
    glasses: str = ""


OUTFITS = ("casual", "jacket", "skirt", "dress", "coat", "robe", "gown")
OUTFIT_SHARES = (0.32, 0.18, 0.14, 0.14, 0.11, 0.06, 0.05)
HAIR_STYLES = ("short", "cropped", "bob", "long", "bun", "bald", "afro", "swept")
HATS = ("beanie", "cap", "brim")


def top(rng: np.random.Generator, sleeve: float | None = None, low: float | None = None) -> Garment:
    """A tee, shirt, blouse or jumper."""
    reach = float(rng.choice([0.35, 0.55, 0.8, 1.95, 1.95])) if sleeve is None else sleeve
    return Garment(
        "top",
        "tights",
        draw_cloth(rng, placket=bool(rng.random() < 0.25)),
        sleeve=reach,
        low=float(rng.uniform(-0.08, 0.12)) if low is None else low,
        high=float(rng.choice([0.93, 0.98, 1.04])),
        neckline=float(rng.choice([0.0, 0.08, 0.2], p=[0.5, 0.3, 0.2])),
        thickness=float(rng.uniform(0.009, 0.022)),
        looseness=float(rng.uniform(0.1, 0.9)),
        flare=float(rng.uniform(0.0, 0.025)),
        droop=float(rng.choice([0.0, 0.03], p=[0.7, 0.3])),
        folds=float(rng.uniform(0.002, 0.007)),
    )


def trousers(rng: np.random.Generator, cuff: float | None = None) -> Garment:
    """Trousers or shorts, slim to wide."""
    reach = (
        float(rng.choice([1.97, 1.9, 1.75, 0.75, 0.5], p=[0.5, 0.2, 0.05, 0.15, 0.1]))
        if cuff is None
        else cuff
    )
    wide = float(rng.choice([0.0, 0.02, 0.05], p=[0.45, 0.35, 0.2]))
    return Garment(
        "trousers",
        "tights",
        draw_cloth(rng, kind="denim" if rng.random() < 0.3 else None),
        cuff=reach,
        low=-9.0,
        high=float(rng.uniform(0.18, 0.34)),
        thickness=float(rng.uniform(0.004, 0.009)) + 0.2 * wide,
        looseness=0.2 + 6 * wide,
        flare=wide,
        folds=float(rng.uniform(0.002, 0.006)),
    )


def skirt(rng: np.random.Generator, hem: float | None = None, material: Material | None = None) -> Garment:
    """A skirt; `hem` is measured along the leg (0.5 mid thigh, 1 knee, 2 ankle)."""
    return Garment(
        "skirt",
        "skirt",
        material or draw_cloth(rng),
        cuff=float(rng.uniform(0.45, 1.9)) if hem is None else hem,
        high=9.0,
        thickness=float(rng.uniform(0.004, 0.012)),
        flare=float(rng.uniform(-0.03, 0.06)),
        folds=float(rng.uniform(0.003, 0.014)),
        pleats=float(rng.choice([6, 9, 14, 24])),
    )


def overcoat(rng: np.random.Generator, hem: float, wide: float) -> list[Garment]:
    """A coat or robe: trunk and sleeves on the tights, the rest on the skirt, of one cloth."""
    cloth = draw_cloth(rng, placket=bool(rng.random() < 0.6))
    opening = float(rng.choice([0.0, 0.03], p=[0.75, 0.25]))
    upper = Garment(
        "coat",
        "tights",
        cloth,
        sleeve=1.95,
        low=0.05,
        high=float(rng.uniform(0.98, 1.1)),
        neckline=float(rng.choice([0.05, 0.25])),
        opening=opening,
        thickness=0.028,
        looseness=0.8,
        flare=wide,
        droop=wide * 1.5,
        folds=float(rng.uniform(0.004, 0.008)),
    )
    lower = skirt(rng, hem, cloth)
    lower.thickness, lower.opening = 0.03, opening
    return [upper, lower]


def draw_shoes(rng: np.random.Generator) -> Material:
    """Upper and sole of a pair of shoes: mostly black, brown or white."""
    upper = ((0.07, 0.07, 0.08), (0.3, 0.18, 0.1), (0.85, 0.85, 0.83), cloth_colour(rng))[
        int(rng.integers(4))
    ]
    sole = (0.85, 0.84, 0.8) if rng.random() < 0.5 else (0.1, 0.09, 0.08)
    return Material("shoe", (upper, sole), offset=float(rng.random()), gloss=0.12)


def draw_outfit(
    rng: np.random.Generator, feminine: bool, child: bool, hair_colour: Colour | None = None
) -> Outfit:
    """Draw an outfit; dresses and skirts are commoner on feminine bodies, and never exclusive to them."""
    shares = np.asarray(OUTFIT_SHARES) * (
        [1, 1, 1.6, 1.6, 1, 1, 1.6] if feminine else [1.3, 1.3, 0.15, 0.15, 1, 1, 0.1]
    )
    kind = str(rng.choice(OUTFITS, p=shares / shares.sum()))
    outfit = Outfit(kind)
    if kind in ("casual", "jacket"):
        lower = trousers(rng)
        inner = top(rng)
        if rng.random() < 0.4:  # tucked in
            inner.low = lower.high - 0.03
        outfit.garments = [lower, inner]
        if kind == "jacket":
            jacket = top(rng, sleeve=1.97, low=float(rng.uniform(-0.12, 0.1)))
            jacket.name, jacket.thickness, jacket.looseness = "jacket", 0.028, 0.6
            jacket.opening = float(rng.choice([0.0, 0.02, 0.06], p=[0.3, 0.3, 0.4]))
            jacket.high = 1.02
            outfit.garments.append(jacket)
    elif kind == "skirt":
        upper = top(rng)
        upper.low, upper.thickness = float(rng.choice([0.14, 0.17])), 0.012
        lower = skirt(rng)
        outfit.garments = [upper, lower] if upper.low < 0.15 else [lower, upper]
    elif kind in ("dress", "gown"):
        lower = skirt(rng, float(rng.uniform(0.5, 1.3)) if kind == "dress" else 1.95)
        upper = top(rng, sleeve=float(rng.choice([0.1, 0.3, 0.6, 1.9])), low=0.1)
        upper.material, upper.thickness, upper.flare = lower.material, 0.009, 0.01
        upper.looseness = 0.15
        outfit.garments = [upper, lower]
    elif kind in ("coat", "robe"):
        inner = top(rng, sleeve=1.8, low=0.1)
        inner.thickness, inner.flare, inner.droop = 0.01, 0.0, 0.0
        long_hem = float(rng.uniform(0.7, 1.4)) if kind == "coat" else float(rng.uniform(1.6, 1.95))
        wide = float(rng.uniform(0.0, 0.02)) if kind == "coat" else float(rng.uniform(0.03, 0.09))
        outfit.garments = [trousers(rng, 1.95), inner, *overcoat(rng, long_hem, wide)]
    tone = hair_colour or HAIR_TONES[int(rng.integers(len(HAIR_TONES)))]
    outfit.hair_material = Material("hair", (tone,), offset=float(rng.random()), gloss=0.12)
    weights = (
        [0.08, 0.03, 0.24, 0.34, 0.14, 0.01, 0.06, 0.1]
        if feminine
        else [0.4, 0.24, 0.03, 0.04, 0.02, 0.08, 0.07, 0.12]
    )
    outfit.hair = str(rng.choice(HAIR_STYLES, p=weights))
    if rng.random() < 0.14:
        outfit.hat = str(rng.choice(HATS))
        outfit.hat_material = draw_cloth(rng)
    if rng.random() < 0.93:
        outfit.shoe_material = draw_shoes(rng)
        outfit.shoe_height = float(rng.choice([1.93, 1.97, 1.78], p=[0.35, 0.45, 0.2]))
    if rng.random() < 0.12:
        outfit.bag = str(rng.choice(["backpack", "shoulder"]))
        outfit.bag_material = draw_cloth(rng)
    if rng.random() < 0.15:
        outfit.glasses = str(rng.choice(["clear", "dark"]))
    return outfit
