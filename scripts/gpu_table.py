"""Writes the measured rows of docs/gpus.md from results of `bench/official.py`.

After a measurement copy its official.json to bench/measured/NAME.json and run `python
scripts/gpu_table.py`. A row is a whole run of
the published sizes, photo to GLB, when all is warm.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "bench" / "measured"
TARGET = ROOT / "docs" / "gpus.md"
BEGIN, END = "<!-- measured: scripts/gpu_table.py -->", "<!-- end of measured -->"
# Part, row and column of a result.
SECONDS = ("whole", "photo to GLB, second run", "s")
RESIDENT = ("memory", "photo to GLB, resident", "reserved")
STAGED = ("memory", "photo to GLB, staged", "reserved")
HEAD = "| card | seconds per model | peak GiB, resident | peak GiB, staged | torch |\n|---|---|---|---|---|\n"
NOTHING = "No measurement of these sizes has been brought in yet.\n"


def main() -> int:
    """Write the rows into the page."""
    text = TARGET.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    TARGET.write_text(f"{before}{BEGIN}\n{table(read(MEASURED))}{END}{after}")
    return 0


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the measurements of a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def table(measured: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown; what a measurement left out stays empty."""
    rows = []
    for found in measured:
        about = found["environment"]
        figures = (
            found.get(part, {}).get(row, {}).get(column) for part, row, column in (SECONDS, RESIDENT, STAGED)
        )
        shown = ["" if figure is None else f"{figure:.1f}" for figure in figures]
        rows.append(f"| {' | '.join([about.get('gpu', 'CPU'), *shown, about['torch']])} |\n")
    return HEAD + "".join(rows) if rows else NOTHING


if __name__ == "__main__":
    sys.exit(main())
