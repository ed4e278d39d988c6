"""The exported parametric body: phenotypes to a rest shape, rotations to a posed one, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ARM_CHAIN = ("upperarm01", "lowerarm01", "wrist", "finger3-3")
LEG_CHAIN = ("upperleg01", "lowerleg01", "foot", "toe2-1")


@dataclass
class Body:
    """A parametric body; lengths in metres, z up, facing -y, the person's left at +x.

    Attributes:
        template: [V, 3] base vertices, helper meshes included.
        blendshapes: [K, V, 3] offsets; `heads_blendshapes` [K, J, 3] those of the joints.
        weights: [V, J] skin weights.
        quads: Faces by group (body, tights, skirt, hair, eye_left, eye_right), [F, 4].
        regions: Coordinates of each vertex on the reference body (see `reference_regions`).
        reference: [V, 3] rest shape of the average body; textures and garment cuts live on it.
    """

    template: Tensor
    blendshapes: Tensor
    heads: Tensor
    heads_blendshapes: Tensor
    weights: Tensor
    bones: list[str]
    parents: list[int]
    quads: dict[str, np.ndarray]
    phenotype_mask: Tensor
    phenotype_projection: Tensor
    variations: list[tuple[str, str]]
    anchors: dict[str, Tensor]
    reference: Tensor = field(init=False)
    reference_heads: Tensor = field(init=False)
    regions: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.reference, self.reference_heads = self.rest_shape({"age": 0.67})
        self.regions = reference_regions(self)

    def coefficients(self, phenotypes: dict[str, float]) -> Tensor:
        """Blend-shape coefficients [K]: product of the piecewise-linear weights of each named variation.

        Phenotypes run from 0 to 1 (age from -1/3); unnamed ones are 0.5. Ethnic shares are normalised.
        """
        shares: dict[tuple[str, str], float] = {}
        by_name: dict[str, list[str]] = {}
        for name, variation in self.variations:
            by_name.setdefault(name, []).append(variation)
        race = {v: phenotypes.get(v, 0.5) for v in by_name["race"]}
        for variation, value in race.items():
            shares["race", variation] = value / max(sum(race.values()), 1e-6)
        for name, variations in by_name.items():
            if name == "race":
                continue
            knots = self.anchors[name].tolist()
            value = min(max(phenotypes.get(name, 0.5), knots[0]), knots[-1])
            shares.update({(name, v): 0.0 for v in variations})
            upper = int(np.searchsorted(knots, value, side="left").clip(1, len(knots) - 1))
            mix = (value - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
            shares[name, variations[upper - 1]] = 1.0 - mix
            shares[name, variations[upper]] = mix
        values = self.phenotype_mask.new_tensor([shares[key] for key in self.variations])
        products = torch.prod(values * self.phenotype_mask + (1 - self.phenotype_mask), dim=-1)
        return products @ self.phenotype_projection

    def rest_shape(self, phenotypes: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Rest vertices [V, 3] and joints [J, 3] of one person."""
        coefficients = self.coefficients(phenotypes)
        flat = coefficients @ self.blendshapes.flatten(1)
        vertices = self.template + flat.view(-1, 3)
        return vertices, self.heads + torch.einsum("k,kjd->jd", coefficients, self.heads_blendshapes)

    def bone_transforms(self, heads: Tensor, rotations: Tensor) -> Tensor:
        """World transforms of the bones: each rotates about its rest joint, in rest (body) axes.

        Args:
            heads: [..., J, 3] rest joints.
            rotations: [..., J, 3, 3] rotations relative to the parent, axes of the rest pose.

        Returns:
            [..., J, 3, 4] transforms that take rest points to posed points.
        """
        local = torch.cat([rotations, (heads - (rotations @ heads[..., None])[..., 0])[..., None]], dim=-1)
        chain: list[Tensor] = []
        for bone, parent in enumerate(self.parents):
            own = local[..., bone, :, :]
            if parent >= 0:
                above = chain[parent]
                moved = above[..., :3] @ own
                own = torch.cat([moved[..., :3], moved[..., 3:] + above[..., 3:]], dim=-1)
            chain.append(own)
        return torch.stack(chain, dim=-3)

    def skin(self, vertices: Tensor, transforms: Tensor) -> Tensor:
        """Linear blend skinning: [..., V, 3] at rest and [..., J, 3, 4] transforms to posed vertices."""
        blended = (self.weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
        return (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]

    def index(self, bone: str) -> int:
        """Index of a bone by name."""
        return self.bones.index(bone)


def polyline_coordinate(points: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Coordinate of [N, 3] points along a polyline: i + share on segment i, the nearest."""
    best = np.full(len(points), np.inf)
    result = np.zeros(len(points))
    for i in range(len(knots) - 1):
        start, step = knots[i], knots[i + 1] - knots[i]
        share = (points - start) @ step / (step @ step)
        inside = share.clip(None if i == 0 else 0.0, None if i == len(knots) - 2 else 1.0)
        distance = np.linalg.norm(points - start - share.clip(0, 1)[:, None] * step, axis=1)
        nearer = distance < best
        best[nearer], result[nearer] = distance[nearer], i + inside[nearer]
    return result


def reference_regions(body: Body) -> dict[str, np.ndarray]:
    """Where each vertex lies on the reference body.

    `arm`: 0 shoulder, 1 elbow, 2 wrist, 3 finger tips (-1 off the arm); `leg`: 0 hip, 1 knee, 2 ankle, 3 toes
    (-1 off the leg); `head`: share of head and upper-neck weights; `height`: 0 at the hip joints, 1 at the
    base of the neck (along z); `side`: sign of x.
    """
    reference = body.reference.cpu().numpy()
    heads = body.reference_heads.cpu().numpy()
    weights = body.weights.cpu().numpy()

    def share(*prefixes: str) -> np.ndarray:
        return weights[:, [i for i, name in enumerate(body.bones) if name.startswith(prefixes)]].sum(1)

    regions: dict[str, np.ndarray] = {}
    for name, chain, prefixes in (
        ("arm", ARM_CHAIN, ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")),
        ("leg", LEG_CHAIN, ("upperleg", "lowerleg", "foot", "toe")),
    ):
        limb = share(*prefixes)
        along = np.zeros(len(reference))
        for side, sign in (("L", 1), ("R", -1)):
            mine = reference[:, 0] * sign > 0
            knots = heads[[body.index(f"{bone}.{side}") for bone in chain]]
            along[mine] = polyline_coordinate(reference[mine], knots)
        regions[name] = np.where(limb > 0.5, np.maximum(along, 0.0), limb - 1.0)
    hip = heads[body.index("upperleg01.L"), 2]
    neck = heads[body.index("neck01"), 2]
    regions["head"] = share("head", "neck02", "neck03", "eye")
    regions["height"] = (reference[:, 2] - hip) / (neck - hip)
    regions["side"] = np.sign(reference[:, 0])
    return regions


@lru_cache(maxsize=2)
def load_body(path: Path, device: str = "cpu") -> Body:
    """Read a body written by `export_body`.

    Raises:
        FileNotFoundError: The file is not there; says how to make it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found; run: python -m synchuman.training.people.export_body --out {path}"
        )
    with np.load(path) as data:

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(data[name].astype(np.float32)).to(device)

        weights = torch.zeros(len(data["template"]), len(data["bones"]), device=device)
        weights.scatter_add_(
            1, torch.from_numpy(data["skin_bones"].astype(np.int64)).to(device), tensor("skin_weights")
        )
        return Body(
            template=tensor("template"),
            blendshapes=tensor("blendshapes"),
            heads=tensor("heads"),
            heads_blendshapes=tensor("heads_blendshapes"),
            weights=weights,
            bones=[str(name) for name in data["bones"]],
            parents=[int(parent) for parent in data["parents"]],
            quads={name[6:]: data[name] for name in data.files if name.startswith("quads_")},
            phenotype_mask=tensor("phenotype_mask"),
            phenotype_projection=tensor("phenotype_projection"),
            variations=[(str(v).split(":")[0], str(v).split(":")[1]) for v in data["phenotype_variations"]],
            anchors={name[8:]: tensor(name).cpu() for name in data.files if name.startswith("anchors_")},
        )
