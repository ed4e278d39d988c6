"""Make other files of a finished run, in its folder's `exports`, and print their paths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from synchuman.commands.outcome import BAD_INPUT, OK
from synchuman.exports import FORMATS, export

HELP = "other files of a finished run: OBJ, USDZ, STL, a film …"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `export` understands."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(f"  {kind.name:<10}{kind.text}" for kind in FORMATS.values())
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--format", nargs="+", required=True, choices=list(FORMATS), metavar="FORMAT", help="see below"
    )
    parser.add_argument("--texture", help="how the texture is stored: jpeg, png or webp")
    parser.add_argument("--height", type=float, help="of the person in metres (default: 1.7)")


def execute(options: argparse.Namespace) -> int:
    """Make the files; 3 when the run or the choice is unusable."""
    try:
        for name in options.format:
            path = export(options.run, name, options.texture, options.height)
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    return OK
