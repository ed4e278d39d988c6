"""The colour texture: the photo's own pixels where it sees the surface, the generated views elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from synchuman.surface.atlas import Atlas
from synchuman.surface.extend import label_nearest, spread
from synchuman.surface.look import Look, Texels, look, prepare
from synchuman.surface.mesh import Checkpoint, DenseMesh
from synchuman.surface.scan import scan_convert
from synchuman.surface.sources import Source
from synchuman.surface.unseen import Decoded, blend_decoded, exposure, fill_from_neighbours
from synchuman.views import BACK, FACE, FRONT

_PHOTO_FROM, _PHOTO_FULL = 0.22, 0.5  # cosines between which the photo replaces the views
_LITTLE, _WELL = 1e-3, 0.02  # least trust in a photo that sees a texel; weight from which views know a texel
_STEPS = 9


@torch.inference_mode()
def bake(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    atlas: Atlas,
    sources: list[Source],
    size: int,
    checkpoint: Checkpoint,
    device: torch.device,
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
        device: Where the texels are worked on; the result is the same up to rounding.
        dense: The surface before decimation; its colours, if it has them, are used where no image sees well.

    Returns:
        [size, size, 3] uint8; texels outside the charts continue their borders.

    Raises:
        ValueError: No source shows the person where the mesh is.
    """
    checkpoint("texture", 0, _STEPS)
    ordered = _ordered(sources)
    points, corners = (torch.from_numpy(array).to(device) for array in (vertices, faces))
    with ThreadPoolExecutor(max(2, min(len(ordered) + 2, torch.get_num_threads()))) as pool:
        try:
            prepared = [pool.submit(prepare, source, atlas.density) for source in ordered]
            decoded = None if dense is None or dense.colors is None else pool.submit(Decoded, dense, device)
            texels, covered = _texels(points, corners, torch.from_numpy(normals).to(device), atlas, size)
            label = pool.submit(label_nearest, covered)
            merged = _Merged(texels)
            for step, source in enumerate(ordered):
                checkpoint("texture", 1 + min(step, _STEPS - 4), _STEPS)
                merged.add(source, look(prepared[step].result(), texels, points, corners))
            checkpoint("texture", _STEPS - 3, _STEPS)
            color, weight = merged.result()
            if not bool((weight > 0).any()):
                raise ValueError(
                    "No view shows the person where the mesh is; check the masks of the normal images."
                )
            checkpoint("texture", _STEPS - 2, _STEPS)
            if decoded is None:
                fill_from_neighbours(color, weight, texels)
            else:
                blend_decoded(color, weight, texels, decoded.result())
            checkpoint("texture", _STEPS - 1, _STEPS)
            rounded = (color + 0.5).clamp(0, 255).to(torch.uint8)
            texture = spread(rounded, texels.index, label.result()[0]).cpu().numpy()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a stopped run does not wait for what is not begun
            raise
    checkpoint("texture", _STEPS, _STEPS)
    return texture


def _ordered(sources: list[Source]) -> list[Source]:
    """Keep the sources that show something new, in the order in which they are matched to each other."""
    photo = any(source.photo for source in sources)

    def kept(source: Source) -> bool:
        # The generated front and face show what the photo shows, less well and slightly elsewhere.
        return bool(source.mask.any()) and (source.photo or not photo or source.view not in (FRONT, FACE))

    # The photo is what the others are matched to; the back meets only the sides: it is matched last.
    return sorted(filter(kept, sources), key=lambda s: (not s.photo, s.view == BACK))


def _texels(
    vertices: Tensor, faces: Tensor, normals: Tensor, atlas: Atlas, size: int
) -> tuple[Texels, np.ndarray]:
    """Return the covered texels, and which they are [size, size] bool."""
    uv, cut = (
        torch.from_numpy(atlas.uv).to(vertices.device),
        torch.from_numpy(atlas.faces).to(vertices.device),
    )
    hits = scan_convert(uv.double() * size, cut, size, size)
    smooth = hits.interpolate(normals, faces)
    x, y, z = smooth.unbind(1)
    smooth /= (x * x + y * y + z * z).sqrt().clamp(min=1e-9)[:, None]
    covered = torch.zeros(size * size, dtype=torch.bool, device=vertices.device)
    covered[hits.index] = True
    texels = Texels(hits.index, hits.interpolate(vertices, faces), smooth)
    return texels, covered.view(size, size).cpu().numpy()


class _Merged:
    """The colours of all sources so far, each matched in exposure to those before."""

    def __init__(self, texels: Texels) -> None:
        self.texels = texels
        self.total = torch.zeros_like(texels.points)
        self.weight = texels.points.new_zeros(len(texels.points))
        self.photo = torch.zeros_like(texels.points)
        self.photo_weight: Tensor | None = None

    def add(self, source: Source, seen: Look) -> None:
        """Add what a source shows."""
        index, color = seen.index, seen.color
        if source.photo:
            self.photo[index] = color
            self.photo_weight = torch.zeros_like(self.weight).index_copy_(0, index, seen.weight)
            return
        if source.view == BACK:
            weight = self.weight[index]
            known = self.total[index] / weight.clamp(min=1e-9)[:, None]
            color = color * exposure(color, seen.weight, known, weight)
        elif self.photo_weight is not None:
            color = color * exposure(color, seen.weight, self.photo[index], self.photo_weight[index])
        self.total[index] += color * seen.weight[:, None]
        self.weight[index] += seen.weight

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the colours [n, 3] and how well they are known [n], 0 where nothing sees."""
        known = torch.where(self.weight > 1e-4, self.weight, 0)
        merged = self.total / self.weight.clamp(min=1e-9)[:, None]
        if self.photo_weight is None:
            return merged, known
        weight = self.photo_weight
        cosine = (-self.texels.normals[:, 1]).clamp(0, 1)
        full = ((cosine - _PHOTO_FROM) / (_PHOTO_FULL - _PHOTO_FROM)).clamp(0, 1)
        trust = (full * full * (3 - 2 * full) * weight / (cosine**4).clamp(min=1e-6)).clamp(0, 1)
        trust = torch.maximum(trust, weight.clamp(max=_LITTLE))
        # Where the views know little, even a grazing photo is better; where they know, they take over.
        share = trust / (trust + (1 - trust) * (self.weight / _WELL).clamp(0, 1)).clamp(min=1e-9)
        merged += (self.photo - merged) * share[:, None]
        return merged, known + torch.where(weight > 1e-5, weight, 0)
