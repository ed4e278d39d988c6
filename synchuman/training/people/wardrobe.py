"""A wardrobe: MakeHuman clothes worn instead of the garments that are cut from the body's cages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.body import Body, load_body
from synchuman.training.people.cages import triangulate
from synchuman.training.people.fabrics import Material, cloth_colour, draw_cloth
from synchuman.training.people.mhclo import Clothes, read_clothes
from synchuman.training.people.outfits import Outfit, draw_shoes
from synchuman.training.people.tailor import HIP_HEIGHT, Part
from synchuman.training.render import vertex_normals

SALT = 11
SHARE = 0.4
SHOE_SHARE, HAIR_SHARE, HAT_SHARE = 0.75, 0.3, 0.12
OTHER_GENDER = 0.25  # weight of clothes tagged for the other gender
SMALL_SECTION = 400  # vertices; a smaller piece (button, belt) is trim
NEAR, LARGEST_PUSH = 0.03, 0.02
# Least distance from the skin, metres; hats go over cropped hair.
GAPS = {"outfit": 0.003, "shoes": 0.003, "hat": 0.011}
# Their shape lies in transparent textures: without them they veil the face.
UNSUITABLE = frozenset({"bob01", "bob02"})
SLOTS = ("shoes", "hair", "hat", "outfit")
Use = Callable[[Material | None], int]


def slot(clothes: Clothes) -> str:
    """What clothes are worn as, by their tags and folder: one of SLOTS."""
    if clothes.tags & {"shoes", "shoe", "boots"}:
        return "shoes"
    if clothes.tags & {"hats", "hat"}:
        return "hat"
    return "hair" if "hair" in clothes.tags else "outfit"


@dataclass
class Bound:
    """Clothes bound to one body.

    Attributes:
        clothes: What was read.
        reference: [N, 3] fitted to the reference body; texture coordinates.
        weights: [N, J] skin weights.
        beneath: [N] nearest body vertex on the reference body; `near` [N] says whether it is within NEAR.
        triangles: By section, [F, 3] int32.
    """

    clothes: Clothes
    reference: Tensor
    weights: Tensor
    beneath: Tensor
    near: Tensor
    triangles: list[Tensor]

    def posed(self, body: Body, rest: Tensor, transforms: Tensor) -> Tensor:
        """Vertices [N, 3] on a person: fitted at rest [V, 3], then skinned by transforms [J, 3, 4]."""
        fitted = self.clothes.fit(rest)
        blended = (self.weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
        return (blended[..., :3] @ fitted[..., None])[..., 0] + blended[..., 3]

    def clear_of(self, vertices: Tensor, posed: Tensor, normals: Tensor, least: float) -> Tensor:
        """Push vertices [N, 3] near the skin to `least` metres off it; `posed`, `normals` are the skin's."""
        outward = normals[self.beneath]
        gap = ((vertices - posed[self.beneath]) * outward).sum(1)
        push = (least - gap).clamp(min=0, max=LARGEST_PUSH) * self.near
        return vertices + outward * push[:, None]


@dataclass
class Worn:
    """What one person wears from the wardrobe; `outfit` is what remains of the drawn one."""

    outfit: Outfit
    pieces: list[tuple[Bound, list[Material]]]

    def parts(
        self, body: Body, rest: Tensor, posed: Tensor, transforms: Tensor, use: Use
    ) -> tuple[list[Part], np.ndarray]:
        """The parts, and which body vertices [V] (bool) they hide; `use` registers a material."""
        hidden = np.zeros(len(posed), bool)
        skin = torch.from_numpy(triangulate(body.quads["body"])).to(posed.device)
        normals = vertex_normals(posed, skin)
        parts: list[Part] = []
        for bound, materials in self.pieces:
            vertices = bound.posed(body, rest, transforms)
            least = GAPS.get(slot(bound.clothes))
            if least is not None:
                vertices = bound.clear_of(vertices, posed, normals, least)
            hidden[bound.clothes.hidden] = True
            parts += [
                Part(vertices, triangles, bound.reference, use(material))
                for triangles, material in zip(bound.triangles, materials)
            ]
        return parts, hidden


class Wardrobe:
    """The clothes of a folder, bound to one body."""

    def __init__(self, clothes: list[Clothes], body: Body) -> None:
        """Bind clothes.

        Raises:
            ValueError: They were made for another base mesh, or none of them is an outfit.
        """
        self.by_slot: dict[str, list[Bound]] = {name: [] for name in SLOTS}
        for item in clothes:
            if item.name in UNSUITABLE:
                continue
            self.by_slot[slot(item)].append(bind(item, body))
        if not self.by_slot["outfit"]:
            raise ValueError("the wardrobe holds shoes, hats or hair only; add clothes for the body")

    def draw(self, seed: int, outfit: Outfit, feminine: bool) -> Worn | None:
        """What the person of a seed wears from here; None: they keep the drawn outfit."""
        rng = np.random.default_rng([seed, SALT])
        if rng.random() >= SHARE:
            return None
        main = self._choose(rng, "outfit", feminine)
        pieces = [(main, suit_materials(main, rng))]
        rest = replace(outfit, name=main.clothes.name, garments=[])
        if self.by_slot["shoes"] and rng.random() < SHOE_SHARE:
            shoes = self._choose(rng, "shoes", feminine)
            socks = [Material("plain", (cloth_colour(rng),)) for _ in shoes.triangles[1:]]
            pieces.append((shoes, [draw_shoes(rng), *socks]))
            rest.shoe_material = None
        else:
            rest.shoe_height = max(rest.shoe_height, 1.93)
        if self.by_slot["hat"] and rng.random() < HAT_SHARE:
            hat = self._choose(rng, "hat", feminine)
            pieces.append((hat, [draw_cloth(rng) for _ in hat.triangles]))
            rest.hat, rest.hair = "", "cropped"
        elif self.by_slot["hair"] and rng.random() < HAIR_SHARE:
            hair = self._choose(rng, "hair", feminine)
            material = outfit.hair_material or Material("hair", ((0.2, 0.15, 0.1),))
            pieces.append((hair, [material] * len(hair.triangles)))
            rest.hat, rest.hair = "", "bald"
        return Worn(rest, pieces)

    def _choose(self, rng: np.random.Generator, name: str, feminine: bool) -> Bound:
        bound = self.by_slot[name]
        other = "male" if feminine else "female"
        shares = np.array([OTHER_GENDER if other in item.clothes.tags else 1.0 for item in bound])
        return bound[int(rng.choice(len(bound), p=shares / shares.sum()))]


def suit_materials(bound: Bound, rng: np.random.Generator) -> list[Material]:
    """A cloth for each section of an outfit; trousers are often denim, small pieces plain."""
    materials = []
    for triangles in bound.triangles:
        rows = torch.unique(triangles.long())
        up = bound.reference[rows, 2]
        legs_only = float(up.min()) < HIP_HEIGHT - 0.2 and float(up.max()) < HIP_HEIGHT + 0.2
        if len(rows) < SMALL_SECTION:
            materials.append(Material("plain", (cloth_colour(rng),)))
        else:
            materials.append(draw_cloth(rng, kind="denim" if legs_only and rng.random() < 0.4 else None))
    return materials


def bind(clothes: Clothes, body: Body) -> Bound:
    """Bind clothes to a body.

    Raises:
        ValueError: They refer to vertices that the body does not have.
    """
    from scipy.spatial import cKDTree

    device = body.template.device
    used = np.concatenate([clothes.rows.ravel(), clothes.hidden, [0]])
    if used.max() >= len(body.template):
        raise ValueError(
            f"{clothes.name} refers to body vertex {used.max()} of {len(body.template)}; "
            "only clothes for the MakeHuman base mesh hm08 fit"
        )
    reference = clothes.fit(body.reference)
    shares = torch.from_numpy(clothes.shares).to(device).clamp(min=0)
    shares = shares / shares.sum(1, keepdim=True)
    weights = (body.weights[torch.from_numpy(clothes.rows).to(device)] * shares[..., None]).sum(1)
    skin = np.unique(body.quads["body"])
    distance, nearest = cKDTree(body.reference.cpu().numpy()[skin]).query(reference.cpu().numpy())
    section = clothes.sections[clothes.triangles[:, 0]]
    return Bound(
        clothes=clothes,
        reference=reference,
        weights=weights,
        beneath=torch.from_numpy(skin[nearest].astype(np.int64)).to(device),
        near=torch.from_numpy(distance < NEAR).to(device),
        triangles=[
            torch.from_numpy(clothes.triangles[section == number]).to(device)
            for number in range(section.max() + 1)
        ],
    )


@lru_cache(maxsize=2)
def open_wardrobe(path: Path, body_file: Path, device: str = "cpu") -> Wardrobe:
    """Read and bind the clothes of a folder or .tgz, once for each process; see `read_clothes` for errors."""
    return Wardrobe(read_clothes(path), load_body(body_file, device))
