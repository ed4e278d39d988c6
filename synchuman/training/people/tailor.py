"""Tailoring: garments cut from the cages of a posed body, laid over each other, with folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.cages import Cage
from synchuman.training.people.noise import noise
from synchuman.training.people.outfits import Garment
from synchuman.training.render import vertex_normals

LAYER_GAP = 0.0035
# Tops at least this high close around the neck; the others leave a round opening of this radius and more.
TURTLENECK, NECK_RADIUS = 1.04, 0.07
# On the reference body: height of the hip joints, skirt's waist; metres per unit of the region coordinates.
HIP_HEIGHT, LEG_UNIT, SKIRT_TOP = 0.158, 0.45, 0.25
ARM_UNIT, TRUNK_UNIT, OUTSIDE = 0.27, 0.6, -0.05


@dataclass
class Part:
    """A coloured piece of a person.

    Attributes:
        vertices: [V, 3] posed, metres.
        triangles: [F, 3] int32.
        reference: [V, 3] where the vertices lie on the reference body; textures live there.
        material: Index into the person's materials.
    """

    vertices: Tensor
    triangles: Tensor
    reference: Tensor
    material: int


def coverage(garment: Garment, regions: dict[str, np.ndarray], reference: np.ndarray) -> np.ndarray:
    """How far inside a garment each vertex lies: [N] metres from the nearest hem, negative outside."""
    arm, leg, height = regions["arm"], regions["leg"], regions["height"]
    x, y, z = reference.T
    front = y < 0.0
    on_arm, on_leg = arm >= 0.0, leg >= 0.0
    if garment.cage == "skirt":
        hem = HIP_HEIGHT - LEG_UNIT * garment.cuff
        inside = np.minimum((SKIRT_TOP - height) * TRUNK_UNIT, z - hem)
        inside = np.where(on_arm, OUTSIDE, inside)
    elif garment.cuff >= 0:
        inside = np.where(on_leg, (garment.cuff - leg) * LEG_UNIT, (garment.high - height) * TRUNK_UNIT)
        inside = np.where(on_arm, OUTSIDE, inside)
    else:
        vee = garment.neckline * np.clip(1 - np.abs(x) / 0.1, 0, 1) * front
        top = (max(garment.high, TURTLENECK) - vee - height) * TRUNK_UNIT
        if garment.high < TURTLENECK:
            radius = NECK_RADIUS + 0.5 * max(1.0 - garment.high, 0.0)
            open_neck = height > np.where(front, 0.8, 0.99)
            top = np.where(open_neck, np.minimum(top, np.hypot(x, y - 0.005) - radius), top)
        inside = np.minimum(top, (height - garment.low) * TRUNK_UNIT)
        inside = np.where(on_leg, np.minimum(inside, (0.3 - leg) * LEG_UNIT), inside)
        inside = np.where(on_arm, (garment.sleeve - arm) * ARM_UNIT, inside)
    if garment.opening > 0:
        gap = np.abs(x) - garment.opening
        inside = np.where(front & (arm < 0.5), np.minimum(inside, gap), inside)
    return inside


def cut_part(vertices: Tensor, cage: Cage, inside: np.ndarray, material: int) -> Part:
    """Cut a part out of a cage along the line where `inside` [N] is zero.

    Triangles across that line keep their outer corners, moved onto it, so that hems are smooth.
    """
    triangles = cage.all_triangles
    within = inside[triangles] > 0
    some = within[:, 0] | within[:, 1] | within[:, 2]
    kept = triangles[some]
    across = triangles[some & ~(within[:, 0] & within[:, 1] & within[:, 2])]
    partner = across[np.arange(len(across)), inside[across].argmax(1)]
    outer, inner = across.ravel(), np.repeat(partner, 3)
    chosen = inside[outer] <= 0
    outer, inner = outer[chosen], inner[chosen]
    outer, first = np.unique(outer, return_index=True)
    inner = inner[first]
    share = inside[inner] / np.maximum(inside[inner] - inside[outer], 1e-9)
    device = vertices.device
    rows, partners = torch.from_numpy(outer).to(device), torch.from_numpy(inner).to(device)
    mixed = torch.from_numpy(share[:, None]).to(vertices)
    moved, reference = vertices.clone(), cage.reference.clone()
    for values in (moved, reference):
        values[rows] = values[partners] + (values[rows] - values[partners]) * mixed
    return Part(moved, torch.from_numpy(kept).to(device), reference, material)


def fold_field(garment: Garment, cage: Cage, offset: float) -> Tensor:
    """Height [N] of a garment's wrinkles: sharp creases across bent joints, long soft folds elsewhere."""
    x = cage.reference
    regions = cage.regions
    soft = noise(x, (9.0, 9.0, 6.0), offset)[:, 0]
    across = 1 - noise(x, (10.0, 10.0, 26.0), offset + 0.3)[:, 1].abs().clamp(max=1.5)
    near: np.ndarray = np.zeros(len(regions["arm"]))
    for name, joints in (
        ("arm", ((0.1, 0.25), (1.0, 1.0), (1.85, 0.8))),
        ("leg", ((0.1, 0.6), (1.0, 1.0), (1.9, 1.0))),
    ):
        for joint, strength in joints:
            near = np.maximum(near, strength * np.exp(-(((regions[name] - joint) / 0.22) ** 2)))
    waist = np.exp(-(((regions["height"] - 0.25) / 0.14) ** 2)) * (regions["arm"] < 0) * 0.7
    crease = torch.from_numpy(np.maximum(near, waist)).to(x)
    height = garment.folds * (0.5 * soft + across * (0.3 + 1.2 * crease))
    if garment.pleats > 0:
        angle = torch.atan2(x[:, 1], x[:, 0])
        ramp = ((HIP_HEIGHT - x[:, 2]) / LEG_UNIT / 1.2).clamp(0, 1)
        wander = 0.6 * noise(x, (4.0, 4.0, 1.5), offset + 0.6)[:, 2]
        height = 0.4 * height + 1.6 * garment.folds * ramp * torch.sin(
            garment.pleats * angle + wander + offset * 6
        )
    return height


class Fitting:
    """Lays garments over one posed body, each outside those laid before it."""

    def __init__(self, cages: dict[str, Cage], posed: Tensor, neighbours: dict[str, Tensor]) -> None:
        self.cages = cages
        self.neighbours = neighbours
        self.skirt_height = torch.from_numpy(cages["skirt"].regions["height"]).to(posed)
        self.base: dict[str, Tensor] = {}
        self.loose: dict[str, Tensor] = {}
        self.normals: dict[str, Tensor] = {}
        self.outermost: dict[str, Tensor] = {}
        self.covered: dict[str, Tensor] = {}
        for name in ("tights", "skirt"):
            cage = cages[name]
            self.base[name] = cage.tight(posed)
            self.loose[name] = cage.loose(posed)
            triangles = torch.from_numpy(cage.all_triangles).to(posed.device)
            self.normals[name] = vertex_normals(self.base[name], triangles)
            self.outermost[name] = self.base[name].clone()
            self.covered[name] = torch.zeros(len(cage.reference), dtype=torch.bool, device=posed.device)

    def lay(self, garment: Garment, keep: np.ndarray, offset: float) -> Tensor:
        """Posed vertices [N, 3] of a garment on its whole cage; what it covers pushes later garments out."""
        cage, name = self.cages[garment.cage], garment.cage
        normals, base = self.normals[name], self.base[name]
        regions = cage.regions
        end = garment.sleeve if garment.sleeve > 0 else 9.0
        along_leg = (HIP_HEIGHT - cage.reference[:, 2]) / LEG_UNIT
        ramp = np.clip(regions["arm"] / max(end, 0.5), 0, 1) ** 1.5
        sleeve_ramp = torch.from_numpy(ramp * (regions["arm"] > 0)).to(base)
        leg_ramp = (along_leg / max(garment.cuff, 0.5)).clamp(0, 1) * (sleeve_ramp == 0) * (garment.cuff > 0)
        distance = garment.thickness + fold_field(garment, cage, offset)
        distance = distance + garment.flare * torch.maximum(sleeve_ramp, leg_ramp)
        vertices = base + (self.loose[name] - base) * min(garment.looseness, 1.0)
        inward = ((vertices - base) * normals).sum(1).clamp(max=0.0)
        vertices = vertices + normals * (distance.clamp(min=LAYER_GAP) - inward)[:, None]
        if garment.droop > 0:
            under = (-normals[:, 2]).clamp(min=0) * sleeve_ramp
            vertices = vertices - torch.stack([under * 0, under * 0, under * garment.droop], dim=1)
        vertices = self._outside(vertices, garment)
        mask = torch.from_numpy(keep).to(base.device)
        self.outermost[name] = torch.where(mask[:, None], vertices, self.outermost[name])
        self.covered[name] |= mask
        return vertices

    def _outside(self, vertices: Tensor, garment: Garment) -> Tensor:
        """Push vertices out to LAYER_GAP beyond what already lies there."""
        name = garment.cage
        gap = ((vertices - self.outermost[name]) * self.normals[name]).sum(1)
        push = (LAYER_GAP - gap).clamp(min=0) * self.covered[name]
        vertices = vertices + self.normals[name] * push[:, None]
        if name == "skirt":
            # At the waist the skirt meets what is worn on the trunk; at the hips it must clear it.
            near = self.neighbours["skirt"]
            normals = self.normals["tights"][near]
            height = self.skirt_height
            gap = ((vertices - self.outermost["tights"][near]) * normals).sum(1)
            push = (LAYER_GAP - gap).clamp(min=0, max=0.06) * (height > -0.25)
            vertices = vertices + normals * push[:, None]
            waist = ((height - 0.05) / 0.15).clamp(0, 1)[:, None]
            vertices = vertices + waist * (self.outermost["tights"][near] + normals * LAYER_GAP - vertices)
        return vertices

    def thicken(self, name: str, distance: float) -> None:
        """Take a cage as covered `distance` thick by clothes that were not laid here."""
        self.outermost[name] = self.outermost[name] + self.normals[name] * distance

    def clear_of_trunk(self, vertices: Tensor, name: str, gap: float) -> Tensor:
        """Push vertices whose `neighbours` are `name` out of what is worn on the trunk."""
        near = self.neighbours[name]
        normals = self.normals["tights"][near]
        inside = gap - ((vertices - self.outermost["tights"][near]) * normals).sum(1)
        chest = torch.from_numpy(self.cages["tights"].regions["height"] < 1.0).to(vertices.device)[near]
        return vertices + normals * (inside.clamp(min=0, max=0.08) * chest)[:, None]


def nearest_on_trunk(cages: dict[str, Cage], points: np.ndarray) -> Tensor:
    """For each of [N, 3] points of the reference body the nearest vertex of the tights: [N] indices."""
    from scipy.spatial import cKDTree

    trunk = cages["tights"].reference
    _, near = cKDTree(trunk.cpu().numpy()).query(points)
    return torch.from_numpy(near.astype(np.int64)).to(trunk.device)
