"""Example photos for the page: synthetic people in front of a soft procedural room, free of any rights.

`python -m synchuman.training.people.examples --out assets/examples`
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from synchuman.training.people.person import BODY_FILE, make_person
from synchuman.training.people.photo import Shot, render_photo
from synchuman.training.people.views import place

LOGGER = logging.getLogger(__name__)
WIDTH, HEIGHT, PERSON = 768, 1024, 900
FLOOR = 0.72
EXAMPLES = {"person-1": 1205, "person-2": 1780, "person-3": 1682}


def room(rng: np.random.Generator) -> np.ndarray:
    """A wall and a floor under soft light, out of focus: float32 [HEIGHT, WIDTH, 3]."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) / HEIGHT
    wall = np.array([0.80, 0.79, 0.77]) + rng.normal(0, 0.03, 3)
    floor = np.array([0.58, 0.52, 0.46]) + rng.normal(0, 0.03, 3)
    share = 1 / (1 + np.exp(-np.clip((v - FLOOR) / 0.006, -30, 30)))
    image = wall + (floor - wall) * share[..., None]
    window = np.exp(-(((u - rng.uniform(0.1, 0.6)) / 0.45) ** 2) - ((v - 0.25) / 0.5) ** 2)
    image = image * (0.82 + 0.28 * window[..., None])
    skirting = np.exp(-(((v - FLOOR + 0.012) / 0.006) ** 2))
    image = image * (1 - 0.12 * skirting[..., None])
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), 4) + rng.normal(0, 0.006, image.shape)


def example_photo(seed: int, body_file: Path = BODY_FILE) -> np.ndarray:
    """Photo of the person of a seed in a room: uint8 [HEIGHT, WIDTH, 3]."""
    rng = np.random.default_rng([seed, 11])
    side = float(rng.choice([-1.0, 1.0]))
    fill = np.array([[1.0] * 3, [0.0] * 3, [-0.08] * 3, [0.14] * 3])
    key = (0.55 * side, -0.62, 0.56)
    with torch.inference_mode():
        scene = place(make_person(seed, "cpu", body_file))
        shot = Shot(50.0, 0.06, 0.0, key, 0.8, 0.42, fill, np.full(3, 1.08), 0.95, 0.0, 0.0, 95, 0.0)
        person = render_photo(scene, shot, PERSON, supersampling=2)
    image = room(rng)
    top, left = HEIGHT - PERSON - 44, (WIDTH - PERSON) // 2
    cut = slice(max(0, -left), PERSON - max(0, -left))
    colour, alpha = person[:, cut, :3], person[:, cut, 3:]
    here = (slice(top, top + PERSON), slice(max(0, left), max(0, left) + alpha.shape[1]))
    # What touches the floor darkens it: the silhouette's lowest part, squashed and blurred.
    rows = np.flatnonzero(alpha[..., 0].any(1))
    feet = alpha[int(rows[-1] - 0.12 * PERSON) :, :, 0].max(0)
    shadow = np.zeros((HEIGHT, WIDTH), np.float32)
    base = top + int(rows[-1])
    shadow[base - 26 : base + 4, here[1]] = feet
    shadow = cv2.GaussianBlur(shadow, (0, 0), 26) * 0.55 + cv2.GaussianBlur(shadow, (0, 0), 9) * 0.35
    image = image * (1 - shadow[..., None].clip(0, 0.75))
    image[here] = image[here] * (1 - alpha) + colour * alpha
    v, u = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    image = image * (1 - 0.1 * (u**2 + v**2))[..., None]
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/examples"))
    parser.add_argument("--body", type=Path, default=BODY_FILE)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, seed in EXAMPLES.items():
        path = args.out / f"{name}.jpg"
        Image.fromarray(example_photo(seed, args.body)).save(path, quality=88, optimize=True)
        LOGGER.info("wrote %s (%d kB)", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
