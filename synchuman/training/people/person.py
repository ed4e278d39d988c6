"""One clothed person from a seed: body, pose, outfit, hair and materials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people import hair as heads
from synchuman.training.people.body import Body, load_body
from synchuman.training.people.cages import Cage, body_cages, triangulate
from synchuman.training.people.fabrics import HAIR_TONES, SKIN_TONES, Material
from synchuman.training.people.kinematics import collides, joint_rotations
from synchuman.training.people.outfits import Outfit, draw_outfit
from synchuman.training.people.poses import HARD_POSES, Pose, draw_pose
from synchuman.training.people.tailor import LEG_UNIT, Fitting, Part, coverage, cut_part, nearest_on_trunk
from synchuman.training.people.wardrobe import Wardrobe, Worn

BODY_FILE = Path("training-data/body.npz")
FIRST_EVALUATION_SEED = 10_000_000
HIDE_MARGIN, SHOE_THICKNESS, WORN_THICKNESS = 0.025, 0.012, 0.025


@dataclass
class Person:
    """A clothed person as one triangle mesh.

    Attributes:
        vertices: [V, 3] metres, z up, facing about -y.
        triangles: [F, 3] int32.
        reference: [V, 3] texture coordinates: positions on the reference body.
        identity: [V] index of each vertex's material.
        materials: The materials.
        skin: [S, 3] int32 triangles of the whole body; `triangles` leaves out what clothes hide.
        pose, outfit, phenotypes: What was drawn.
    """

    vertices: Tensor
    triangles: Tensor
    reference: Tensor
    identity: Tensor
    materials: list[Material]
    skin: Tensor
    pose: Pose
    outfit: Outfit
    phenotypes: dict[str, float]


@dataclass
class Studio:
    """What all people of one device share: the body, its cages and index tables."""

    body: Body
    cages: dict[str, Cage]
    neighbours: dict[str, Tensor]
    reference: np.ndarray
    head: Tensor
    trunk: Tensor


@lru_cache(maxsize=2)
def open_studio(path: Path = BODY_FILE, device: str = "cpu") -> Studio:
    """Load the body and build the cages once for each device (a few seconds)."""
    body = load_body(path, device)
    cages = body_cages(body)
    neighbours = {
        "skirt": nearest_on_trunk(cages, cages["skirt"].reference.cpu().numpy()),
        "hair": nearest_on_trunk(cages, heads.curtain()[0]),
    }
    regions = body.regions
    is_body = np.zeros(len(body.template), bool)
    is_body[np.unique(body.quads["body"])] = True
    head = is_body & (regions["head"] > 0.9)
    trunk = is_body & (regions["arm"] < -0.9) & (regions["leg"] < -0.9) & (regions["height"] < 1)
    rows = (torch.from_numpy(np.flatnonzero(mask)).to(device) for mask in (head, trunk))
    return Studio(body, cages, neighbours, body.reference.cpu().numpy(), *rows)


def draw_phenotypes(rng: np.random.Generator) -> dict[str, float]:
    """Body shape; about one person in five is a child."""
    age = float(rng.uniform(0.17, 0.6) if rng.random() < 0.2 else rng.uniform(0.6, 1.0))
    race = rng.dirichlet([0.7, 0.7, 0.7])
    return {
        "gender": float(rng.beta(0.35, 0.35)),
        "age": age,
        "muscle": float(rng.uniform(0.25, 0.8)),
        "weight": float(np.clip(rng.normal(0.5, 0.17), 0.12, 0.95)),
        "height": float(rng.uniform(0.2, 0.8)),
        "proportions": float(rng.uniform(0.2, 0.8)),
        "cupsize": float(rng.uniform(0.2, 0.75)),
        "firmness": float(rng.uniform(0.4, 0.8)),
        "african": float(race[0]),
        "asian": float(race[1]),
        "caucasian": float(race[2]),
    }


def reserved(pose: Pose, outfit: Outfit) -> bool:
    """Whether a combination belongs to the evaluation seeds alone.

    Training never sees: dresses, skirts and robes in lunges or kneeling; checked or dotted jackets and coats;
    raised arms together with wide sleeves; backpacks on people who sit.
    """
    kinds = {garment.material.kind for garment in outfit.garments if garment.name in ("jacket", "coat")}
    return (
        (outfit.name in ("dress", "skirt", "robe") and pose.family in ("lunge", "kneel"))
        or bool(kinds & {"checks", "dots"})
        or (outfit.name == "robe" and pose.family in ("raised", "wave"))
        or (outfit.bag == "backpack" and pose.family == "sit")
    )


def draw_description(seed: int) -> tuple[dict[str, float], Pose, Outfit, np.random.Generator]:
    """Draw who, how and in what; half of the evaluation people come from the reserved combinations."""
    rng = np.random.default_rng(seed)
    wants_reserved = seed >= FIRST_EVALUATION_SEED and rng.random() < 0.5
    phenotypes = draw_phenotypes(rng)
    while True:
        pose = draw_pose(rng)
        outfit = draw_outfit(rng, phenotypes["gender"] > 0.5, phenotypes["age"] < 0.5)
        if reserved(pose, outfit) == wants_reserved:
            break
    if outfit.name in ("gown", "coat", "robe") and pose.family in HARD_POSES:
        # An open coat would show legs it cannot drape over.
        outfit.garments = [
            replace(g, opening=0.0) if g.name in ("coat", "skirt") else g for g in outfit.garments
        ]
    return phenotypes, pose, outfit, rng


def skin_materials(rng: np.random.Generator, masculine: bool, hair_tone: tuple[float, ...]) -> list[Material]:
    """Materials of skin and eyes; all skin tones are equally likely."""
    tone = np.asarray(SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]) * rng.uniform(0.93, 1.05)
    dark = np.minimum(np.asarray(hair_tone) * 0.8, tone * 0.6)
    lips = (
        tone * [0.93, 0.66, 0.66] if masculine else tone * rng.uniform([0.75, 0.4, 0.42], [0.95, 0.65, 0.66])
    )
    beard = float(rng.uniform(0.25, 0.95)) if masculine and rng.random() < 0.35 else 0.0
    iris = ((0.12, 0.07, 0.04), (0.2, 0.13, 0.07), (0.25, 0.35, 0.45), (0.25, 0.33, 0.2))[
        int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))
    ]
    three = tuple(tuple(float(v) for v in colour) for colour in (tone, dark, lips))
    return [
        Material("skin", three, frequency=beard, offset=float(rng.random()), gloss=0.1),  # type: ignore[arg-type]
        Material("eye", (iris,), gloss=0.3),
    ]


def make_person(
    seed: int, device: str = "cpu", body_file: Path = BODY_FILE, wardrobe: Wardrobe | None = None
) -> Person:
    """Make the person of a seed; with a wardrobe, some wear clothes from it.

    Seeds from 10,000,000 on are for evaluation only (see `reserved`).
    """
    studio = open_studio(body_file, device)
    body = studio.body
    phenotypes, pose, outfit, rng = draw_description(seed)
    rest, joints = body.rest_shape(phenotypes)
    for _ in range(12):
        transforms = body.bone_transforms(joints, joint_rotations(pose, body, joints))
        posed_joints = (transforms[..., :3] @ joints[..., None])[..., 0] + transforms[..., 3]
        if not collides(posed_joints.cpu().numpy(), body, joints.cpu().numpy()):
            break
        pose = draw_pose(rng, pose.family)
    posed = body.skin(rest, transforms)
    tone = outfit.hair_material.colours[0] if outfit.hair_material else HAIR_TONES[0]
    materials = skin_materials(rng, phenotypes["gender"] <= 0.5 and phenotypes["age"] > 0.6, tone)
    worn = wardrobe.draw(seed, outfit, phenotypes["gender"] > 0.5) if wardrobe else None
    outfit = worn.outfit if worn else outfit
    parts = dress(studio, outfit, posed, rest, transforms, materials, rng, worn)
    counts = np.cumsum([0] + [len(part.vertices) for part in parts])
    # Skin and eyes come last, both on the vertices of the whole body.
    skin = torch.from_numpy(triangulate(body.quads["body"])) + int(counts[-2])
    return Person(
        vertices=torch.cat([part.vertices for part in parts]),
        triangles=torch.cat([part.triangles + int(start) for part, start in zip(parts, counts)]),
        reference=torch.cat([part.reference for part in parts]),
        identity=torch.cat([torch.full((len(p.vertices),), p.material, device=posed.device) for p in parts]),
        materials=materials,
        skin=skin.to(posed.device),
        pose=pose,
        outfit=outfit,
        phenotypes=phenotypes,
    )


def dress(
    studio: Studio,
    outfit: Outfit,
    posed: Tensor,
    rest: Tensor,
    transforms: Tensor,
    materials: list[Material],
    rng: np.random.Generator,
    worn: Worn | None = None,
) -> list[Part]:
    """All parts of a person; appends the materials it uses to `materials` (which holds skin and eyes)."""
    body, cages = studio.body, studio.cages
    device = posed.device
    parts: list[Part] = []
    hidden = np.zeros(len(posed), bool)
    fitting = Fitting(cages, posed, studio.neighbours)

    def use(material: Material | None) -> int:
        materials.append(material or Material("plain", ((0.2, 0.2, 0.2),)))
        return len(materials) - 1

    if worn is not None:
        parts, hidden = worn.parts(body, rest, posed, transforms, use)
        fitting.thicken("tights", WORN_THICKNESS)
    for order, garment in enumerate(outfit.garments):
        cage = cages[garment.cage]
        reference = cage.reference.cpu().numpy()
        inside = coverage(garment, cage.regions, reference)
        vertices = fitting.lay(garment, inside > 0, float(rng.random()))
        for outer in outfit.garments[order + 1 :]:
            if not (outer.cage == "skirt" and outer.opening > 0):
                inside = np.minimum(inside, 0.045 - coverage(outer, cage.regions, reference))
        if not (garment.cage == "skirt" and garment.opening > 0):
            hidden |= coverage(garment, body.regions, studio.reference) > HIDE_MARGIN
        parts.append(cut_part(vertices, cage, inside, use(garment.material)))
    if outfit.shoe_material is not None:
        parts.append(shoe_part(fitting, outfit.shoe_height, use(outfit.shoe_material)))
        hidden |= body.regions["leg"] > outfit.shoe_height + 0.05
    offset = float(rng.random())
    if outfit.hair != "bald":
        index = use(outfit.hair_material)
        parts.append(heads.scalp_part(cages["scalp"], posed, outfit.hair, offset, index, bool(outfit.hat)))
        if outfit.hair in heads.LONG_STYLES:
            sheet = torch.from_numpy(heads.curtain()[0]).to(rest)
            on_head, on_trunk = (
                heads.rescale(sheet, body.reference[rows], rest[rows]) for rows in (studio.head, studio.trunk)
            )
            share = ((0.8 - sheet[:, 2:]) / 0.1).clamp(0, 1)
            pair = transforms[[body.index("head"), body.index("spine01")]]
            hung = on_head * (1 - share) + on_trunk * share
            parts.append(heads.hanging_part(hung, pair, outfit.hair, offset, index, fitting))
    parts += carried_parts(studio, outfit, rest, posed, transforms, use)
    skin = triangulate(body.quads["body"])
    eyes = triangulate(np.concatenate([body.quads["eye_left"], body.quads["eye_right"]]))
    for material, triangles in ((0, skin[~hidden[skin].all(1)]), (1, eyes)):
        parts.append(Part(posed, torch.from_numpy(triangles).to(device), body.reference, material))
    return parts


def shoe_part(fitting: Fitting, height: float, material: int) -> Part:
    """A shoe or boot that reaches up the leg to `height` (2 is the ankle)."""
    cage = fitting.cages["tights"]
    base = torch.lerp(fitting.base["tights"], fitting.loose["tights"], 0.3)
    vertices = base + fitting.normals["tights"] * SHOE_THICKNESS
    return cut_part(vertices, cage, (cage.regions["leg"] - height) * LEG_UNIT, material)


def carried_parts(
    studio: Studio,
    outfit: Outfit,
    rest: Tensor,
    posed: Tensor,
    transforms: Tensor,
    use: Callable[[Material | None], int],
) -> list[Part]:
    """Hat, bun, glasses and bag."""
    body = studio.body
    parts: list[Part] = []

    def carry(pieces: list[tuple[np.ndarray, np.ndarray]], bone: str, rows: Tensor, material: int) -> None:
        transform = transforms[body.index(bone)]
        parts.extend(
            heads.rigid_part(p, body.reference[rows], rest[rows], transform, material) for p in pieces
        )

    if outfit.hat:
        index = use(outfit.hat_material)
        parts.append(heads.hat_cap(studio.cages["scalp"], posed, outfit.hat, index))
        if outfit.hat != "beanie":
            carry([heads.brim(outfit.hat)], "head", studio.head, index)
    elif outfit.hair == "bun":
        carry(
            [heads.ellipsoid((0.0, 0.075, 0.985), (0.042, 0.042, 0.042))],
            "head",
            studio.head,
            use(outfit.hair_material),
        )
    if outfit.glasses:
        carry(heads.glasses(), "head", studio.head, use(Material("plain", ((0.05, 0.05, 0.06),), gloss=0.3)))
        if outfit.glasses == "dark":
            carry(
                heads.lenses(), "head", studio.head, use(Material("plain", ((0.06, 0.05, 0.05),), gloss=0.5))
            )
    if outfit.bag:
        carry(heads.bag(outfit.bag), "spine02", studio.trunk, use(outfit.bag_material))
    return parts
