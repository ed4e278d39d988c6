"""Writes the measured rows of docs/gpus.md from results of `bench/official.py`.

After a measurement copy its official.json to bench/measured/NAME.json and run `python
scripts/gpu_table.py`. A row is a whole run of
the published sizes, photo to GLB, when all is warm.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "bench" / "measured"
TARGET = ROOT / "docs" / "gpus.md"
BEGIN, END = "<!-- measured: scripts/gpu_table.py -->", "<!-- end of measured -->"
WHOLE = re.compile(r"photo to GLB.*second run.*")
HEAD = "| card | placement | seconds per model | peak memory, GiB | torch |\n|---|---|---|---|---|\n"
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
    """Return the rows in Markdown."""
    rows = []
    for found in measured:
        environment = found["environment"]
        for name, row in found.get("whole", {}).items():
            if not WHOLE.fullmatch(name):
                continue
            cells = (
                environment.get("gpu", "CPU"),
                "staged" if "staged" in name else "resident",
                f"{row['s']:.1f}",
                f"{row['reserved']:.1f}" if "reserved" in row else "",
                environment["torch"],
            )
            rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows) if rows else NOTHING


if __name__ == "__main__":
    sys.exit(main())
