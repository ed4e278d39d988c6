"""Check a variant's networks on this machine against stored figures."""

from __future__ import annotations

import argparse

from synchuman.commands import knobs
from synchuman.commands.answers import Answer, Bars, answer
from synchuman.commands.device import waited_turn
from synchuman.exit_codes import FAILED, OK

HELP = "check a variant's networks on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `selfcheck` understands."""
    parser.add_argument("--variant", default="official", help="name of the weights, or a folder of them")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--networks-only", action="store_true", help="leave the run of a photo out")
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Check a variant's networks on this machine."""

    def check(options: argparse.Namespace) -> Answer:
        from synchuman.selfcheck import check_variant

        with waited_turn(options), Bars(options.json) as bars:
            report = check_variant(
                options.variant, options.device, options.dtype, not options.networks_only, bars.event
            )
        return (OK if report.passed else FAILED), report.as_dict(), report.lines()

    return answer(options, check)
