"""Makes the picture of results for the README: photos, the views made of them, models from all sides.

Runs the example photos with the weights that ship, as the page would, and lays everything out in one WebP.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
HEIGHT = 250  # of a row, in pixels
VIEW = 118  # side of a view
TURNS = ((0.0, "shaded"), (55.0, "shaded"), (180.0, "shaded"), (-55.0, "clay"))
GAP = 10
GROUND = (255, 255, 255)
PERSON = (0.2, 0.8)  # columns of a square picture that are kept of a person


def main() -> int:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "results.webp")
    parser.add_argument("--photos", type=Path, nargs="+", help="default: the examples of the page")
    parser.add_argument("--preset", default="Balanced")
    parser.add_argument("--variant", default="mini", help="name of the weights, or a folder of them")
    options = parser.parse_args()
    photos = options.photos or sorted((ROOT / "assets" / "examples").glob("*.jpg"))
    from synchuman.pipeline import SyncHuman
    from synchuman.presets import preset

    pipeline = SyncHuman.load(options.variant)
    rows = []
    for photo in photos:
        with tempfile.TemporaryDirectory() as folder:
            for _ in pipeline.run(photo.read_bytes(), preset(options.preset), Path(folder)):
                pass
            rows.append(_row(photo, Path(folder)))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP for row in rows)), GROUND)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * (HEIGHT + GAP) + GAP // 2))
    sheet.save(options.out, "WEBP", quality=85, method=6)
    sys.stdout.write(f"{options.out}: {sheet.width} x {sheet.height}\n")
    return 0


def _row(photo: Path, folder: Path) -> Image.Image:
    """Lay out a run: the photo, its five views twice (colours over normals), the model."""
    from synchuman.surface.formats.read import read_glb
    from synchuman.surface.preview import render

    shot = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    parts = [shot.resize((HEIGHT * shot.width // shot.height, HEIGHT), Image.Resampling.LANCZOS)]
    parts.append(_views(folder))
    mesh = read_glb((folder / "SecondStage" / "output.glb").read_bytes())
    for yaw, style in TURNS:
        picture = Image.fromarray(render(mesh, yaw, 2 * HEIGHT, style))
        ground = Image.new("RGBA", picture.size, (*GROUND, 255))
        ground.alpha_composite(picture)
        ground = ground.resize((HEIGHT, HEIGHT), Image.Resampling.LANCZOS)
        left, right = (round(part * HEIGHT) for part in PERSON)
        parts.append(ground.convert("RGB").crop((left, 0, right, HEIGHT)))
    row = Image.new("RGB", (sum(part.width + GAP for part in parts) - GAP, HEIGHT), GROUND)
    x = 0
    for part in parts:
        row.paste(part, (x, (HEIGHT - part.height) // 2))
        x += part.width + GAP
    return row


def _views(folder: Path) -> Image.Image:
    """Lay out the five views, as a camera sees them; people are narrow, so their sides are cut."""
    from synchuman.views import NUM_BODY_VIEWS, VIEWS

    columns = []
    for number, view in enumerate(VIEWS):
        column = []
        for kind in ("color", "normal"):
            image = np.asarray(Image.open(folder / "OneStage" / f"{kind}_{number}.png").convert("RGB"))
            small = Image.fromarray(image[:, ::-1] if view.mirrored else image).resize(
                (VIEW, VIEW), Image.Resampling.LANCZOS
            )
            left, right = (round(part * VIEW) for part in PERSON) if number < NUM_BODY_VIEWS else (0, VIEW)
            column.append(small.crop((left, 0, right, VIEW)))
        columns.append(column)
    width = sum(column[0].width for column in columns) + 4 * (len(columns) - 1)
    sheet = Image.new("RGB", (width, 2 * VIEW + GAP), GROUND)
    x = 0
    for column in columns:
        for number, picture in enumerate(column):
            sheet.paste(picture, (x, number * (VIEW + GAP)))
        x += column[0].width + 4
    return sheet


if __name__ == "__main__":
    sys.exit(main())
