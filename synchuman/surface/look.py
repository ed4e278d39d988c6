"""What one image shows of the texels: their colours, and how well its camera sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from synchuman.surface.extend import extend
from synchuman.surface.scan import scan_convert
from synchuman.surface.sources import Source
from synchuman.views import FACE, VIEWS

_LOOK = 1024  # pixels of the depth maps that decide what a camera sees
_LOOK_EXTENT = 1.1
_BIAS = 0.008  # depth a texel may lie behind the depth map
_JUMP = 0.03  # depth between neighbouring surfaces from which on one may be painted with the other's colour
_JUMP_REACH = 8  # pixels of the depth map beside a nearer surface that are in doubt
_DROP_REACH = 4  # pixels of the depth map within the outline of the nearer surface that are in doubt
_DOUBTFUL = 0.002  # sight of a texel that may be beside an outline
_GRAZING = 0.12  # cosine below which a camera does not see a texel
_REACH_OUT = 0.03  # how far outside its mask, in units of the cube, a source lends its nearest colour
_EDGE = 1 / 300  # width, in units of the cube, of the border of a mask that mixes with the background


@dataclass(frozen=True)
class Texels:
    """The covered texels, all on one device.

    Attributes:
        index: [n] int64 places in the flattened texture.
        points: [n, 3] float32.
        normals: [n, 3] float32 unit normals.
    """

    index: Tensor
    points: Tensor
    normals: Tensor


@dataclass(frozen=True)
class Look:
    """What a source shows of the texels that it sees.

    Attributes:
        index: [m] int64 into the texels.
        color: [m, 3] float32 in 0..255.
        weight: [m] float32 in 0..1; 1 is straight and free.
    """

    index: Tensor
    color: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Prepared:
    """A source ready to be read anywhere.

    Attributes:
        source: At the atlas's density, its colours continued beyond the mask.
        outside: [h, w] float32 distance of each pixel to the mask in pixels, 0 inside.
        inside: [h, w] float32 distance of each pixel to the outside of the mask in pixels, 0 outside.
    """

    source: Source
    outside: np.ndarray
    inside: np.ndarray


def prepare(source: Source, density: float) -> Prepared:
    """Scale a source to the atlas's density, cut its mixed border off and continue its colours.

    Args:
        source: A source with a mask that is not empty.
        density: Texels per unit of the cube.
    """
    source = _shrink(source, density)
    border = max(1 if source.photo else 2, round(source.scale * _EDGE))
    eroded = cv2.erode(source.mask.astype(np.uint8), _disc(border)) > 0
    mask = eroded if eroded.any() else source.mask
    image, outside = extend(source.image, mask)
    # Nearest colours run out of the mask in streaks; blurred, they pass for cloth.
    blurred = cv2.GaussianBlur(image, (0, 0), 0.008 * source.scale)
    image = np.where((outside > 0.5 + 0.004 * source.scale)[..., None], blurred, image)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return Prepared(replace(source, image=image, mask=mask), outside, inside)


def look(prepared: Prepared, texels: Texels, vertices: Tensor, faces: Tensor) -> Look:
    """Read a source at the texels that its camera sees.

    Args:
        prepared: The source.
        texels: All texels.
        vertices: [v, 3] float32 of the uncut mesh, on the texels' device.
        faces: [f, 3] of the uncut mesh.
    """
    source = prepared.source
    device = texels.points.device
    cosine = _dot(texels.normals, source.direction)
    chosen = (cosine > _GRAZING).nonzero()[:, 0]
    pixels = project_to_pixels(source, texels.points[chosen])
    if source.view == FACE:  # beyond the border of a body view its border pixels are the nearest
        height, width = source.mask.shape
        within = (pixels > 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        chosen, pixels = chosen[within], pixels[within]
    sight = _sight(source, texels.points[chosen], cosine[chosen], vertices, faces)
    seen = (sight > 0).nonzero()[:, 0]
    chosen, pixels, sight = chosen[seen], pixels[seen], sight[seen]
    distances = torch.from_numpy(np.stack([prepared.outside, prepared.inside])).to(device)
    far, deep = (_read(distances, pixels) / source.scale).unbind(1)
    feather = (0.1 + deep / 0.012).clamp(0, 1) * (1 - far / _REACH_OUT).clamp(0, 1)
    image = torch.from_numpy(source.image).to(device).permute(2, 0, 1).float()
    color = _read(image, pixels, "bilinear" if source.photo else "bicubic").clamp(0, 255)
    return Look(chosen, color, cosine[chosen] ** 4 * feather * sight)


def project_to_pixels(source: Source, points: Tensor) -> Tensor:
    """Do for a tensor of points [n, 3] what `Source.pixels` does for an array; [n, 2] float32."""
    # The face view is a part of the front view, along whose axes `Source.offset` is given.
    column = (points[:, VIEWS[source.view].column_axis] + 0.5) * source.scale + source.offset[0]
    row = (0.5 - points[:, 2]) * source.scale + source.offset[1]
    return torch.stack([column, row], 1)


def _sight(source: Source, points: Tensor, cosine: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """How well a camera sees points [n]: 0 hidden, 1 free, little beside an outline."""
    axis = VIEWS[source.view].column_axis

    def plane(p: Tensor) -> Tensor:
        return (torch.stack([p[:, axis], -p[:, 2]], 1) / _LOOK_EXTENT + 0.5) * _LOOK

    hits = scan_convert(plane(vertices), faces, _LOOK, _LOOK, _dot(vertices, source.direction))
    nearest = hits.depth_map(_LOOK, _LOOK, -2).cpu().numpy()
    maps = np.stack(
        [nearest, cv2.dilate(nearest, _disc(_JUMP_REACH)), cv2.erode(nearest, _disc(_DROP_REACH))]
    )
    around, above, below = _read(torch.from_numpy(maps).to(points.device), plane(points)).unbind(1)
    own = _dot(points, source.direction)
    # Depth that the surface itself gains over a pixel of the depth map.
    slope = (1 - cosine.clamp(0, 1) ** 2).sqrt() / cosine.clamp(min=_GRAZING) * (_LOOK_EXTENT / _LOOK)
    visible = own >= around - _BIAS - slope
    jump = above - own - slope * _JUMP_REACH
    drop = own - below - slope * _DROP_REACH
    doubt = torch.maximum(jump, drop) / _JUMP - 1
    return (1 - doubt).clamp(_DOUBTFUL, 1) * visible


def _shrink(source: Source, density: float) -> Source:
    """Scale a source down to the atlas's density, so that fine detail is averaged rather than skipped."""
    factor = density / source.scale
    if factor > 0.75:
        return source
    height, width = source.mask.shape
    shape = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = cv2.resize(extend(source.image, source.mask)[0], shape, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(source.mask.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.5
    across = shape[0] / width
    offset = (source.offset[0] * across, source.offset[1] * across)
    return replace(source, image=image, mask=mask, scale=source.scale * across, offset=offset)


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _dot(vectors: Tensor, direction: np.ndarray) -> Tensor:
    """Products [n] of vectors [n, 3] with one direction; no matrix product, which a GPU may round to TF32."""
    x, y, z = (float(part) for part in direction)
    return vectors[:, 0] * x + vectors[:, 1] * y + vectors[:, 2] * z


def _read(image: Tensor, pixels: Tensor, mode: str = "bilinear") -> Tensor:
    """Read an image [c, h, w] float32 at pixels [n, 2]; beyond the border the border continues; [n, c]."""
    channels, height, width = image.shape
    if not len(pixels):
        return image.new_zeros((0, channels))
    # The CPU shares a batch's images out to its cores, so the pixels are cut into one row for each.
    rows = torch.get_num_threads() if image.device.type == "cpu" else 1
    grid = pixels * (2 / pixels.new_tensor([width, height])) - 1
    grid = F.pad(grid, (0, 0, 0, -len(pixels) % rows)).view(rows, 1, -1, 2)
    # A batch of one image many times over, not copied.
    images = image[None].expand(rows, -1, -1, -1)
    read = F.grid_sample(images, grid, mode, padding_mode="border", align_corners=False)
    return read.permute(0, 2, 3, 1).reshape(-1, channels)[: len(pixels)]
