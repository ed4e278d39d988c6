"""Make other files of a finished run, in its folder's `exports`, and print their paths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from synchuman.commands import knobs
from synchuman.commands.outcome import Problem, say
from synchuman.exit_codes import BAD_INPUT, OK
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
    knobs.add_json(parser)
    parser.add_argument("--height", type=float, help="of the person in metres (default: 1.7)")


def execute(options: argparse.Namespace) -> int:
    """Make the files; 3 when the run or the choice is unusable."""
    made: dict[str, str] = {}
    try:
        for name in options.format:
            made[name] = str(export(options.run, name, options.texture, options.height))
            if not options.json:
                sys.stdout.write(f"{made[name]}\n")
                sys.stdout.flush()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        if options.json:
            say({"files": made, "error": Problem("bad_input", str(error)).told()})
        return BAD_INPUT
    if options.json:
        say({"files": made})
    return OK
