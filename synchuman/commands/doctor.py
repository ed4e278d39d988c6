"""Tell what runs on this machine, and why something will not."""

from __future__ import annotations

import argparse

from synchuman.commands import knobs
from synchuman.commands.answers import show
from synchuman.exit_codes import FAILED, OK

HELP = "tell what runs on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `doctor` understands."""
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Tell what this machine has, and what will run on it."""
    from synchuman.doctor import examine

    report = examine()
    show(options, report.as_dict(), report.lines())
    return OK if report.healthy else FAILED
