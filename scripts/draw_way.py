"""Draws the way of the data, docs/images/way.svg: `python scripts/draw_way.py`."""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "docs/images/way.svg"
WIDTH, BOX, HIGH, GAP = 1000, 150, 84, 50
# Title, two lines, the folder that does it.
STEPS = (
    ("Photo", "JPEG, PNG, WebP, HEIC", "decoded safely", "photo/"),
    ("Cut-out", "RGBA, framed", "whole body checked", "photo/"),
    ("Stage 1", "5 colour + 5 normal views", "and a 64³ structure", "stage1/"),
    ("Stage 2", "structured latents", "at occupied voxels", "stage2/"),
    ("Surface", "FlexiCubes, cleaned", "decimated, unwrapped", "surface/"),
)
BELOW = (
    (2, "Coarse mesh", "shown while Stage 2 runs"),
    (4, "Textured GLB", "photo and views on the atlas"),
)


def main() -> int:
    """Write the drawing."""
    TARGET.write_text(draw())
    return 0


def draw() -> str:
    """Return the drawing as SVG; it reads on light and on dark pages."""
    parts = []
    for number, (title, first, second, folder) in enumerate(STEPS):
        x = number * (BOX + GAP)
        parts.append(_box(x, 20, title, (first, second), "#4f46e5", folder))
        if number:
            parts.append(_arrow(x - GAP + 4, 20 + HIGH / 2, x - 6, 20 + HIGH / 2))
    for number, title, line in BELOW:
        x = number * (BOX + GAP)
        parts.append(_arrow(x + BOX / 2, 20 + HIGH + 18, x + BOX / 2, 162))
        parts.append(_box(x, 168, title, (line,), "#0f766e", ""))
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#6b7280"/></marker></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {WIDTH - 20} 270" role="img" '
        'aria-label="From the photo through Stage 1 and Stage 2 to the textured GLB" '
        'font-family="system-ui, sans-serif" text-anchor="middle">'
    )
    return "\n".join([head, marker, *parts, "</svg>", ""])


def _box(x: float, y: float, title: str, lines: tuple[str, ...], colour: str, folder: str) -> str:
    middle = x + BOX / 2
    text = [f'<text x="{middle}" y="{y + 28}" font-size="16" font-weight="600" fill="#fff">{title}</text>']
    for number, line in enumerate(lines):
        text.append(f'<text x="{middle}" y="{y + 50 + 16 * number}" font-size="11" fill="#fff">{line}</text>')
    if folder:
        text.append(f'<text x="{middle}" y="{y + HIGH + 14}" font-size="11" fill="#6b7280">{folder}</text>')
    rect = f'<rect x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="12" fill="{colour}"/>'
    return "\n".join([rect, *text])


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    line = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {line} stroke="#6b7280" stroke-width="2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    sys.exit(main())
