"""The command line: `python -m synchuman COMMAND`; each command is a module of `synchuman.commands`."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence

from synchuman import __version__

# In the order of `--help`. A module has HELP, add_arguments(parser) and execute(options); it imports nothing
# heavy, so that --help is instant.
COMMANDS = ("run", "batch", "export", "serve", "weights", "doctor", "selfcheck", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code, one of `commands.outcome`."""
    parser = argparse.ArgumentParser(
        prog="synchuman", description="One photo of a person in, a 3D human out."
    )
    parser.add_argument("--version", action="version", version=f"SyncHuman Studio {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log what is going on")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"synchuman.commands.{name}")
        sub = subparsers.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(sub)
        sub.set_defaults(execute=command.execute)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s"
    )
    return options.execute(options)
