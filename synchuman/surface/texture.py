"""The colour texture: the photo's own pixels where it sees the surface, the generated views elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from synchuman.surface.atlas import Atlas
from synchuman.surface.mesh import Checkpoint, DenseMesh
from synchuman.surface.raster import rasterize
from synchuman.surface.sources import Source
from synchuman.surface.unseen import blend_decoded, exposure, fill_from_neighbours
from synchuman.views import BACK, FACE, FRONT

_LOOK = 1024  # pixels of the depth maps that decide what a camera sees
_LOOK_EXTENT = 1.1
_BIAS = 0.008  # depth a texel may lie behind the depth map
_JUMP = 0.03  # depth between neighbouring surfaces from which on one may be painted with the other's colour
_JUMP_REACH = 8  # pixels of the depth map beside a nearer surface that are in doubt
_DROP_REACH = 4  # pixels of the depth map within the outline of the nearer surface that are in doubt
_DOUBTFUL = 0.002  # sight of a texel that may be beside an outline
_GRAZING = 0.12  # cosine below which a camera does not see a texel
_PHOTO_FROM, _PHOTO_FULL = 0.22, 0.5  # cosines between which the photo replaces the views
_LITTLE, _WELL = 1e-3, 0.02  # least trust in a photo that sees a texel; weight from which views know a texel
_REACH_OUT = 0.03  # how far outside its mask, in units of the cube, a source lends its nearest colour
_EDGE = 1 / 300  # width, in units of the cube, of the border of a mask that mixes with the background
_STEPS = 9
_WORKERS = 2  # sources looked up at once; each takes some 100 MiB at 2048 texels


@dataclass
class _Texels:
    """The covered texels: their places in the texture, points and normals."""

    index: np.ndarray
    points: np.ndarray
    normals: np.ndarray


def bake(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    atlas: Atlas,
    sources: list[Source],
    size: int,
    checkpoint: Checkpoint,
    dense: DenseMesh | None = None,
) -> np.ndarray:
    """Colour an atlas from images, and what they do not show from the decoder or the neighbourhood.

    Args:
        vertices: [v, 3] of the uncut mesh.
        faces: [f, 3] of the uncut mesh.
        normals: [v, 3] smooth unit normals of the uncut mesh.
        atlas: Its charts.
        sources: The photo and the views; at least one sees something.
        size: Side of the texture in texels.
        checkpoint: Called between the steps with the stage "texture".
        dense: The surface before decimation; its colours, if it has them, are used where no image sees well.

    Returns:
        [size, size, 3] uint8; texels outside the charts continue their borders.

    Raises:
        ValueError: No source shows the person where the mesh is.
    """
    checkpoint("texture", 0, _STEPS)
    texels = _texels(vertices, faces, normals, atlas, size)
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    photo: tuple[np.ndarray, np.ndarray] | None = None
    if any(source.photo for source in sources):
        # The generated front and face show what the photo shows, less well and slightly elsewhere.
        sources = [source for source in sources if source.photo or source.view not in (FRONT, FACE)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        looked = pool.map(lambda source: _look_up(source, texels, vertices, faces, atlas.density), sources)
        try:
            for step, source in enumerate(sources):
                checkpoint("texture", 1 + min(step, _STEPS - 4), _STEPS)
                color, weight = next(looked)
                if source.photo:
                    photo = color, weight
                else:
                    seen[source.view] = color, weight
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a stopped run does not wait for sources not begun
            raise
    checkpoint("texture", _STEPS - 3, _STEPS)
    color, weight = _merge(photo, seen, texels)
    if not (weight > 0).any():
        raise ValueError("No view shows the person where the mesh is; check the masks of the normal images.")
    checkpoint("texture", _STEPS - 2, _STEPS)
    if dense is None or dense.colors is None:
        fill_from_neighbours(color, weight, texels.points, texels.normals)
    else:
        blend_decoded(color, weight, texels.points, texels.normals, dense)
    checkpoint("texture", _STEPS - 1, _STEPS)
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texels.index] = np.clip(color + 0.5, 0, 255).astype(np.uint8)
    covered = np.zeros(size * size, bool)
    covered[texels.index] = True
    texture = extend(texture.reshape(size, size, 3), covered.reshape(size, size))[0]
    checkpoint("texture", _STEPS, _STEPS)
    return texture


def extend(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give every pixel outside the mask the colour of the nearest pixel inside.

    Returns:
        The image [h, w, c] and the distance of each pixel to the mask [h, w] in pixels, 0 inside.
    """
    distance, label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros(int(label.max()) + 1, np.int64)
    inside = np.flatnonzero(mask)
    nearest[label.ravel()[inside]] = inside
    return image.reshape(-1, image.shape[2])[nearest[label]], distance


def _texels(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, atlas: Atlas, size: int) -> _Texels:
    hit = rasterize(atlas.uv.astype(np.float64) * size, atlas.faces, size, size)
    points = hit.interpolate(vertices, faces)
    smooth = hit.interpolate(normals, faces)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-9)
    return _Texels(np.flatnonzero(hit.face >= 0), points, smooth)


def _look_up(
    source: Source, texels: _Texels, vertices: np.ndarray, faces: np.ndarray, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """Read a source at all texels: colours [n, 3] and weights [n], float32, 0 where it does not see."""
    color = np.zeros((len(texels.points), 3), np.float32)
    weight = np.zeros(len(texels.points), np.float32)
    if not source.mask.any():
        return color, weight
    source = _shrink(source, density)
    eroded = (
        cv2.erode(
            source.mask.astype(np.uint8), _disc(max(1 if source.photo else 2, round(source.scale * _EDGE)))
        )
        > 0
    )
    mask = eroded if eroded.any() else source.mask
    image, outside = extend(source.image, mask)
    # Nearest colours run out of the mask in streaks; blurred, they pass for cloth.
    blurred = cv2.GaussianBlur(image, (0, 0), 0.008 * source.scale)
    image = np.where((outside > 0.5 + 0.004 * source.scale)[..., None], blurred, image)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)

    cosine = texels.normals @ source.direction
    chosen = np.flatnonzero(cosine > _GRAZING)
    pixels = source.pixels(texels.points[chosen])
    height, width = mask.shape
    within = (pixels > 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    if source.view != FACE:
        within |= True  # beyond the border of a body view its border pixels are the nearest
    chosen, pixels = chosen[within], pixels[within]
    sight = _sight(source, texels.points[chosen], cosine[chosen], vertices, faces)
    chosen, pixels, sight = chosen[sight > 0], pixels[sight > 0], sight[sight > 0]
    far = _read(outside, pixels, cv2.INTER_LINEAR) / source.scale
    deep = _read(inside, pixels, cv2.INTER_LINEAR) / source.scale
    feather = np.clip(0.1 + deep / 0.012, 0, 1) * np.clip(1 - far / _REACH_OUT, 0, 1)
    method = cv2.INTER_LINEAR if source.photo else cv2.INTER_CUBIC
    color[chosen] = np.clip(_read(image.astype(np.float32), pixels, method), 0, 255)
    weight[chosen] = cosine[chosen] ** 4 * feather * sight
    return color, weight


def _sight(
    source: Source, points: np.ndarray, cosine: np.ndarray, vertices: np.ndarray, faces: np.ndarray
) -> np.ndarray:
    """How well a camera sees points [n]: 0 hidden, 1 free, little beside an outline."""
    axis = 0 if source.direction[0] == 0 else 1

    def look(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        plane = np.stack([p[:, axis], -p[:, 2]], 1)
        return (plane / _LOOK_EXTENT + 0.5) * _LOOK, p @ source.direction

    at, depth = look(vertices)
    nearest = np.maximum(rasterize(at, faces, _LOOK, _LOOK, depth).depth, -2)
    above = cv2.dilate(nearest, _disc(_JUMP_REACH))
    below = cv2.erode(nearest, _disc(_DROP_REACH))
    pixels, own = look(points)
    slope = np.sqrt(1 - np.clip(cosine, 0, 1) ** 2) / np.maximum(cosine, _GRAZING)
    pixel = _LOOK_EXTENT / _LOOK
    visible = own >= _read(nearest, pixels, cv2.INTER_LINEAR) - _BIAS - slope * pixel
    jump = _read(above, pixels, cv2.INTER_LINEAR) - own - slope * pixel * _JUMP_REACH
    drop = own - _read(below, pixels, cv2.INTER_LINEAR) - slope * pixel * _DROP_REACH
    doubt = np.maximum(jump, drop) / _JUMP - 1
    return np.where(visible, np.clip(1 - doubt, _DOUBTFUL, 1), 0).astype(np.float32)


def _merge(
    photo: tuple[np.ndarray, np.ndarray] | None,
    seen: dict[int, tuple[np.ndarray, np.ndarray]],
    texels: _Texels,
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the sources: colours [n, 3] float32 and how well they are known [n], 0 where nothing sees."""
    total = np.zeros((len(texels.points), 3), np.float32)
    weights = np.zeros(len(texels.points), np.float32)
    for view in sorted(seen, key=lambda v: v == BACK):  # the back meets only the sides: it is matched last
        color, weight = seen[view]
        if photo is not None and view != BACK:
            color = color * exposure(color, weight, *photo)
        elif view == BACK:
            color = color * exposure(color, weight, total / np.maximum(weights, 1e-9)[:, None], weights)
        total += color * weight[:, None]
        weights += weight
    known = np.where(weights > 1e-4, weights, 0)
    merged = total / np.maximum(weights, 1e-9)[:, None]
    if photo is None:
        return merged, known
    color, weight = photo
    cosine = np.clip(-texels.normals[:, 1], 0, 1)
    full = np.clip((cosine - _PHOTO_FROM) / (_PHOTO_FULL - _PHOTO_FROM), 0, 1)
    trust = np.clip(full * full * (3 - 2 * full) * weight / np.maximum(cosine**4, 1e-6), 0, 1)
    trust = np.maximum(trust, np.minimum(weight, _LITTLE))
    # Where the views know little, even a grazing photo is better; where they know, they take over smoothly.
    share = trust / np.maximum(trust + (1 - trust) * np.clip(weights / _WELL, 0, 1), 1e-9)
    return merged + (color - merged) * share[:, None], known + np.where(weight > 1e-5, weight, 0)


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


def _read(image: np.ndarray, pixels: np.ndarray, method: int) -> np.ndarray:
    """Read an image [h, w] or [h, w, 3] float32 at pixels [n, 2]; beyond the border the border continues."""
    n = len(pixels)
    width = 4096  # OpenCV maps have fewer than 2^15 rows and columns
    place = np.zeros((-(-max(n, 1) // width) * width, 2), np.float32)
    place[:n] = pixels - 0.5
    x, y = (np.ascontiguousarray(place[:, i].reshape(-1, width)) for i in (0, 1))
    read = cv2.remap(image, x, y, method, borderMode=cv2.BORDER_REPLICATE)
    return read.reshape(-1, *image.shape[2:])[:n]
