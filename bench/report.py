"""Turns what bench/official.py wrote into the tables of docs/performance.md.

python bench/report.py runs/official/official.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Row of the table; figures of the published code and wanted ones; part, row and column of the results, unit.
TABLE = (
    ("Stage 1 step", "325 ms", "120 ms", ("step", "the same as a CUDA graph (what runs)", "ms"), "ms"),
    ("Stage 1, 50 steps, all", "16.7 s", "6.5 s", ("stage1", "50 steps", "s"), "s"),
    ("Stage 2 flow, 25 steps, 7,723 voxels", "4.96 s", "1 s",
     ("stage2", "flow, 25 steps, as it runs", "s"), "s"),
    ("Gaussian decoder", "0.03 s", "", ("stage2", "gaussian decoder", "s"), "s"),
    ("Mesh decoder", "0.04 s", "", ("stage2", "mesh decoder", "s"), "s"),
    ("FlexiCubes", "0.08 s", "", ("surface", "FlexiCubes", "s"), "s"),
    ("Photo to GLB", "", "10 s", ("whole", "photo to GLB, second run", "s"), "s"),
    ("Peak memory, resident", "41.5 GiB reserved", "12 GiB",
     ("memory", "photo to GLB, resident", "reserved"), "GiB reserved"),
    ("Peak memory, staged", "", "7 GiB", ("memory", "photo to GLB, staged", "reserved"), "GiB reserved"),
)  # fmt: skip
# Parts whose rows are shown as they are.
PARTS = ("step", "equality", "goldens", "full_golden", "precision", "memory", "attention")


def figure(results: dict[str, Any], part: str, row: str, column: str) -> float | None:
    """Return a figure of the row with a name; if there is none, of the last that begins so."""
    rows = results.get(part, {})
    names = [row] if row in rows else [name for name in rows if name.startswith(row)]
    return rows[names[-1]].get(column) if names else None


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Read the results and print the tables."""
    results = json.loads(Path(sys.argv[1]).read_text())
    about = results["environment"]
    print(", ".join(f"{key} {value}" for key, value in about.items()), "\n")
    rows = []
    for name, reference, wanted, place, unit in TABLE:
        value = figure(results, *place)
        rows.append([name, reference, wanted, "not measured" if value is None else f"{value:.3g} {unit}"])
    print(table(["", "reference", "wanted", "ours"], rows))
    for part in PARTS:
        found = results.get(part)
        if not found:
            continue
        columns = list(dict.fromkeys(column for row in found.values() for column in row))
        shown = [
            [name.strip(), *(_show(row.get(column)) for column in columns)] for name, row in found.items()
        ]
        print(f"\n{part}\n\n{table(['', *columns], shown)}")
    for name, why in results.get("failed", {}).items():
        print(f"\nfailed: {name}: {why.strip().splitlines()[-1]}")


def _show(value: float | bool | None) -> str:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value)
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
