"""The mirror image of a person's training data: as good as another person, and free."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from synchuman.training.people.views import SUPERSAMPLING
from synchuman.training.people_data import unpack_structure
from synchuman.views import BACK, FACE, FRONT, LEFT, RIGHT

# Which stored view shows the mirrored person in each of ours; along y nothing moves but the side.
SOURCES = [FRONT, LEFT, BACK, RIGHT, FACE]
FLIPPED = [FRONT, BACK, FACE]  # their columns grow with x
SAMPLES = SUPERSAMPLING**2  # of a pixel


def mirror(people: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mirror people left to right (x to -x).

    Args:
        people: Arrays of `people.sample.render_sample`, stacked: `colors` and `normals` [n, 5, s, s, 3],
            `canvas`, `face` and `token` [n, h, w, c] uint8, `structure` [n, n^3 / 8] packed bits.

    Returns:
        The same arrays of the mirrored people.
    """
    return {
        "colors": _views(people["colors"]),
        "normals": _turn_normals(_views(people["normals"])),
        "structure": _pack(unpack_structure(people["structure"])[:, 0].flip(1)),
        **{key: people[key].flip(2) for key in ("canvas", "face", "token")},
    }


def _views(images: Tensor) -> Tensor:
    images = images[:, SOURCES]
    images[:, FLIPPED] = images[:, FLIPPED].flip(3)
    return images


def _turn_normals(images: Tensor) -> Tensor:
    """Negate n_x in normal images on white, whose borders are mixed with white.

    A pixel is v = a n + (1 - a) (1, 1, 1) in [-1, 1] with unit n. Its share of white b = 1 - a solves
    2 b^2 - 2 b (sum(v) - 1) + |v|^2 - 1 = 0; negating n_x gives v_x' = 2 b - v_x. Of the two solutions the
    share is the one that the renderer's few samples a pixel can give.
    """
    v = images.float() / 127.5 - 1
    half = (v.sum(-1) - 1) / 2
    root = (half**2 - ((v**2).sum(-1) - 1) / 2).clamp(min=0).sqrt()
    solutions = torch.stack([half - root, half + root])
    shares = ((solutions * SAMPLES).round() / SAMPLES).clamp(0, 1 - 1 / SAMPLES)
    white = shares.gather(0, (solutions - shares).abs().argmin(0, keepdim=True))[0]
    background = (images == 255).all(-1)
    # White can be mixed in only beside it.
    border = F.max_pool2d(background.float(), 3, 1, 1) * ~background
    white = torch.where(background, 1.0, white * border)
    x = ((2 * white - v[..., 0]).clamp(-1, 1) + 1) * 127.5
    return torch.cat([(x + 0.5).to(torch.uint8)[..., None], images[..., 1:]], dim=-1)


def _pack(occupancy: Tensor) -> Tensor:
    """Turn occupancy [n, r, r, r] into packed bits [n, r^3 / 8] uint8 (numpy.packbits order)."""
    bits = occupancy.reshape(len(occupancy), -1, 8).to(torch.uint8)
    weights = 2 ** torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
    return (bits * weights).sum(-1, dtype=torch.uint8)
