"""Measure the weights on people that training never saw."""

from __future__ import annotations

import argparse

HELP = "measure the weights on unseen people"
PASSES_ON = True  # arguments, --help too, are the evaluation's own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the evaluation reads them."""


def execute(options: argparse.Namespace) -> int:
    """Measure the weights; all other arguments go to the evaluation."""
    # The one place that reaches up into training: users look for measuring here, next to running.
    from synchuman.training.evaluate import main as evaluate

    return evaluate(options.rest)
