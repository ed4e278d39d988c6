"""How far decoded features are from a person's surface: the field, its dual vertices and their colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from synchuman.nn.sparse_tensor import CHILDREN, Voxels, child_offsets
from synchuman.surface.dual_marching_cubes import CORNERS
from synchuman.surface.flexicubes import blend_crossings
from synchuman.surface.voxel_field import COLOR, DEFORM, SDF, WEIGHTS, Keys
from synchuman.training.slat_encoder import SDF_SCALE, UNIT_SCALE

PLACES = 27  # vertices of the finer grid that a voxel spans
NEAR = 1.0  # cells from the surface within which the sdf counts more
NEAR_WEIGHT = 4.0
SIGN_SHARPNESS = 5.0
SIGN_WEIGHT = 0.2
PLANE_WEIGHT = 1.0
COLOR_WEIGHT = 0.5
DEFORM_WEIGHT = 1e-2
WEIGHTS_WEIGHT = 1e-3
STEEPEST = 10.0  # limit of a dual vertex's pull on a value of the field, before the mean


@dataclass(frozen=True)
class Grouping:
    """Which vertices of the finer grid the voxels of a batch share; samples lie side by side along x.

    Attributes:
        resolution: Cells of the finer grid along each side.
        places: [n, 27] int64, the row of each of a voxel's vertices, index (i * 3 + j) * 3 + k.
        corners: [8 n, 8] int64, the row of each corner of the voxels' children.
        cells: [8 n, 3] int64 positions of the children.
        count: [m] float32, how many children touch each vertex.
    """

    resolution: int
    places: Tensor
    corners: Tensor
    cells: Tensor
    count: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Sum what children say of their corners [8 n, 8, c] to [m, c]."""
        per_voxel = values.reshape(len(self.places), CHILDREN * 8, -1)
        return self.collect(_corner_to_place(values.device) @ per_voxel)

    def collect(self, values: Tensor) -> Tensor:
        """Sum what voxels say of their vertices [n, 27, c] to [m, c]."""
        total = values.new_zeros(len(self.count), values.shape[2])
        return total.index_add(0, self.places.flatten(), values.flatten(0, 1))


def group(voxels: Voxels, resolution: int) -> Grouping:
    """Find the vertices of the grid of `resolution`, twice as fine as the voxels', that they share."""
    device = voxels.coords.device
    keys = Keys(resolution)
    position = 2 * voxels.coords[:, 1:]
    # No sample is nearer to the next than the margin of the keys.
    position[:, 0] += voxels.coords[:, 0] * (resolution + 3)
    local = torch.cartesian_prod(*(torch.arange(3, device=device),) * 3)
    spanned = keys.encode(position[:, None] + local)
    vertices, places = torch.unique(spanned, return_inverse=True)
    corner_places = _corner_places(device)
    cells = (position[:, None] + child_offsets(device)).flatten(0, 1)
    shares = _corner_to_place(device).sum(1).expand(len(places), -1)
    count = shares.new_zeros(len(vertices)).index_add_(0, places.flatten(), shares.flatten())
    return Grouping(resolution, places, places[:, corner_places].flatten(0, 1), cells, count)


def surface_losses(
    feats: Tensor, voxels: Voxels, targets: Mapping[str, Tensor], resolution: int
) -> dict[str, Tensor]:
    """Compare a mesh decoder's features with the stored targets of the voxels that were decoded.

    Args:
        feats: [8 n, 101] raw features of the voxels' children.
        voxels: [n] the voxels.
        targets: `sdf`, `cell_normal`, `cell_offset`, `cell_color`, `cell_valid` as stored, [n, ...].
        resolution: Of the children's grid.

    Returns:
        Scalar terms: `loss`, the weighted sum; `sdf` (cells, weighted smooth L1), `sign`, `plane` (smooth L1
        of the dual vertices' distance to their cell's plane in cells), `color`, `deform` and `weights`; and
        to be logged, `distance`, the mean distance in cells, and `wrong`, the share of vertices within a cell
        of the surface that have the wrong sign.
    """
    with torch.autocast(feats.device.type, enabled=False):
        return _surface_losses(feats.float(), group(voxels, resolution), targets)


def _surface_losses(feats: Tensor, grouping: Grouping, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    corner = [
        feats[:, SDF, None],
        feats[:, DEFORM].unflatten(1, (8, 3)),
        feats[:, COLOR].unflatten(1, (8, 6)),
    ]
    mean = grouping.spread(torch.cat(corner, dim=2)) / grouping.count[:, None]
    sdf, deform, color = mean[:, 0] - 1.0 / grouping.resolution, mean[:, 1:4], mean[:, 4:].sigmoid()

    truth = torch.zeros_like(sdf)
    # All voxels at a vertex agree about it up to what the targets lack behind thin parts: any will do.
    truth[grouping.places.flatten()] = (targets["sdf"].float() / SDF_SCALE).flatten()
    near = (truth.abs() < NEAR).float()
    importance = 1 + (NEAR_WEIGHT - 1) * near
    error = F.smooth_l1_loss(sdf, truth, beta=0.2, reduction="none")
    sdf_loss = (importance * error).sum() / importance.sum()
    # The soft label makes the true distance, not an exaggerated one, the best answer.
    sign_error = F.binary_cross_entropy_with_logits(
        -SIGN_SHARPNESS * sdf, torch.sigmoid(-SIGN_SHARPNESS * truth), reduction="none"
    )
    sign_loss = _mean(sign_error, near)
    plane_loss, dual_color_loss, distance = _dual_losses(feats, grouping, targets, sdf, deform, color)
    color_loss = _vertex_color_loss(grouping, targets, color) + dual_color_loss
    deform_loss = deform.square().mean()
    weights_loss = feats[:, WEIGHTS].square().mean()
    loss = sdf_loss + SIGN_WEIGHT * sign_loss + PLANE_WEIGHT * plane_loss + COLOR_WEIGHT * color_loss
    loss = loss + DEFORM_WEIGHT * deform_loss + WEIGHTS_WEIGHT * weights_loss
    return {
        "loss": loss,
        "sdf": sdf_loss,
        "sign": sign_loss,
        "plane": plane_loss,
        "color": color_loss,
        "deform": deform_loss,
        "weights": weights_loss,
        "distance": distance,
        "wrong": _mean(((sdf < 0) != (truth < 0)).float(), near),
    }


def _dual_losses(
    feats: Tensor,
    grouping: Grouping,
    targets: Mapping[str, Tensor],
    sdf: Tensor,
    deform: Tensor,
    color: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare dual vertices with the plane and the colour of their cell; also their mean distance to it."""
    inside = (sdf < 0)[grouping.corners].sum(1)
    cut = ((inside > 0) & (inside < 8)).nonzero()[:, 0]
    cells = grouping.cells[cut]
    order = Keys(grouping.resolution).encode(cells).argsort()
    cut, cells = cut[order], cells[order]
    if sdf.requires_grad:
        # A crossing moves without bound where both ends of its edge are near zero.
        sdf, limit = sdf.clone(), STEEPEST / max(len(cut), 1)
        sdf.register_hook(lambda gradient: gradient.nan_to_num(0.0).clamp(-limit, limit))
    weights = feats[cut, WEIGHTS]
    dual = blend_crossings(cells, grouping.corners[cut], sdf, deform, color, weights, grouping.resolution)
    cube = torch.repeat_interleave(dual.base.diff(), output_size=len(dual.values))
    place, mine = cells[cube], cut[cube]
    normal = targets["cell_normal"].flatten(0, 1)[mine].float() / UNIT_SCALE
    offset = targets["cell_offset"].flatten(0, 1)[mine].float() / UNIT_SCALE
    valid = targets["cell_valid"].flatten(0, 1)[mine].float()
    from_centre = (dual.values[:, :3] + 0.5) * grouping.resolution - (place + 0.5)
    height = (normal * from_centre).sum(1) - offset
    wanted = torch.cat([targets["cell_color"].flatten(0, 1)[mine].float() / 255, 0.5 * normal + 0.5], dim=1)
    plane = _mean(F.smooth_l1_loss(height, torch.zeros_like(height), beta=0.2, reduction="none"), valid)
    color_error = _mean((dual.values[:, 3:] - wanted).abs().mean(1), valid)
    return plane, color_error, _mean(height.detach().abs(), valid)


def _vertex_color_loss(grouping: Grouping, targets: Mapping[str, Tensor], color: Tensor) -> Tensor:
    """L1 to the mean colour and normal of the valid cells at each vertex."""
    valid = targets["cell_valid"].float()[..., None]
    normal = targets["cell_normal"].float() / (2 * UNIT_SCALE) + 0.5
    cells = torch.cat([targets["cell_color"].float() / 255, normal, torch.ones_like(valid)], dim=2) * valid
    touch = _corner_to_place(color.device).unflatten(1, (CHILDREN, 8)).sum(2)
    total = grouping.collect(touch @ cells)
    known = (total[:, 6] > 0).float()
    return _mean((color - total[:, :6] / total[:, 6:].clamp(min=1)).abs().mean(1), known)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)


@lru_cache(maxsize=4)
def _corner_places(device: torch.device) -> Tensor:
    """[8, 8] which of a voxel's 27 vertices each child's corners are."""
    at = child_offsets(device)[:, None] + torch.tensor(CORNERS, device=device)
    return (at[..., 0] * 3 + at[..., 1]) * 3 + at[..., 2]


@lru_cache(maxsize=4)
def _corner_to_place(device: torch.device) -> Tensor:
    """[27, 64] float32, one where a child's corner is that vertex."""
    return F.one_hot(_corner_places(device).flatten(), PLACES).T.float()
