"""One training sample from a seed: the five views, the structure and the photo they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from synchuman.photo.framing import frame_sharp, frame_tokens
from synchuman.training.people.person import BODY_FILE, make_person
from synchuman.training.people.photo import degrade, draw_shot, render_photo
from synchuman.training.people.surface_targets import surface_targets
from synchuman.training.people.views import place, render_views
from synchuman.training.people.wardrobe import open_wardrobe

TOKEN_SIDE = 224
PHOTO_SALT = 7


def render_sample(
    seed: int,
    size: int = 192,
    device: str = "cpu",
    body_file: Path = BODY_FILE,
    surface: bool = False,
    outfits: Path | None = None,
) -> dict[str, Any]:
    """Make the training sample of a seed.

    Args:
        seed: From 10,000,000 on: evaluation people, with combinations that training never draws.
        size: Pixels a side of views and canvas; a multiple of 3.
        device: "cpu" or "cuda".
        body_file: What `export_body` wrote.
        surface: Also return the arrays of `surface_targets`.
        outfits: Folder or .tgz of MakeHuman clothes that some of the people wear.

    Returns:
        `colors`, `normals`: uint8 [5, size, size, 3], stored views on white.
        `structure`: uint8 [32768], the 64^3 surface occupancy (x, y, z), packed with `numpy.packbits`.
        `canvas`, `face`: uint8 [size, size, 4], framed photo and its face crop, RGBA.
        `token`: uint8 [224, 224, 3], what the image encoder sees.
    """
    with torch.inference_mode():
        rng = np.random.default_rng([seed, PHOTO_SALT])
        shot = draw_shot(rng)
        wardrobe = open_wardrobe(outfits, body_file, device) if outfits else None
        scene = place(make_person(seed, device, body_file, wardrobe))
        gain = torch.from_numpy(shot.gain).to(scene.vertices)
        colors, normals = render_views(scene, size, gain)
        photo = render_photo(scene, shot, size * 3)
        targets = surface_targets(scene, gain) if surface else {}
    cutout = degrade(photo, shot, rng)
    canvas, face = frame_sharp(cutout, size)
    return {
        "colors": colors,
        "normals": normals,
        "structure": np.packbits(scene.occupancy.cpu().numpy().ravel()),
        "canvas": canvas,
        "face": face,
        "token": frame_tokens(cutout, TOKEN_SIDE),
        **targets,
    }
