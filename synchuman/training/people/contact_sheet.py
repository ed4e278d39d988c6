"""A sheet of generated people to look at: photo, colour views and normal views, one person a row.

`python -m synchuman.training.people.contact_sheet --out sheet.png --count 24 [--seed N]`
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synchuman.training.people.person import BODY_FILE
from synchuman.training.people.sample import render_sample

LOGGER = logging.getLogger(__name__)


def row(sample: dict[str, Any]) -> np.ndarray:
    """One person's images side by side: canvas, five colours, five normals: [size, 11 * size, 3]."""
    canvas = sample["canvas"].astype(np.float32)
    alpha = canvas[..., 3:] / 255
    photo = (canvas[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.concatenate([photo, *sample["colors"], *sample["normals"]], axis=1)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--body", type=Path, default=BODY_FILE)
    parser.add_argument("--outfits", type=Path, help="folder or .tgz of MakeHuman clothes that some wear")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = [
        row(render_sample(args.seed + i, args.size, args.device, args.body, outfits=args.outfits))
        for i in range(args.count)
    ]
    Image.fromarray(np.concatenate(rows)).save(args.out)
    LOGGER.info("wrote %s", args.out)


if __name__ == "__main__":
    main()
