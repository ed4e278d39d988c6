"""Measure the weights on people that training never saw."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synchuman.commands import knobs
from synchuman.commands.answers import Answer, Bars, answer
from synchuman.commands.device import waited_turn
from synchuman.exit_codes import BAD_INPUT, OK

if TYPE_CHECKING:
    from synchuman.settings import Settings

HELP = "measure the weights on unseen people"
TEXTURE_SIZE = 512  # renders are compared at the views' size, which is less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `evaluate` understands."""
    add = parser.add_argument
    add("--variant", default="mini", help="name of the weights, or a folder of them")
    add("--count", type=int, default=32, help="how many people")
    add(
        "--steps", dest="stage1_steps", type=int, help="of Stage 1; like the next ones by default as in a run"
    )
    add("--guidance", type=float, help="of Stage 1")
    add("--stage2-steps", type=int)
    add("--stage2-guidance", type=float)
    add("--solver", help="euler, or multistep")
    add("--device", default="cpu", help="auto, cpu or cuda")
    add("--body", type=Path, help="another body than the one that training uses (docs/training.md)")
    add("--out", type=Path, help="JSON file for the figures")
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Measure the weights, with the device to ourselves meanwhile."""
    return answer(options, _evaluate)


def _evaluate(options: argparse.Namespace) -> Answer:
    # The one place that reaches up into training: users look for measuring here, next to running.
    from synchuman.placement import choose_device
    from synchuman.training.evaluate import BODY_FILE, evaluate
    from synchuman.weights.variants import find_variant

    if options.count < 1:
        return BAD_INPUT, {"error": "--count must be at least 1."}, ["--count must be at least 1."]
    settings = _settings(options)
    folder = find_variant(options.variant)
    if folder is None:
        raise FileNotFoundError(f"{options.variant} is not here yet: python -m synchuman weights pull")
    with waited_turn(options), Bars(options.json) as bars:
        body, device = options.body or BODY_FILE, choose_device(options.device)
        summary = evaluate(folder, options.count, settings, body, device, bars.event)
    if options.out:
        options.out.write_text(json.dumps(summary, indent=1))
    return OK, summary, _lines(summary, options)


def _settings(options: argparse.Namespace) -> Settings:
    from synchuman.presets import DEFAULT_PRESET, preset

    return preset(DEFAULT_PRESET, options.variant, texture_size=TEXTURE_SIZE, **knobs.given(options))


def _lines(summary: dict[str, dict[str, float]], options: argparse.Namespace) -> list[str]:
    """Return the figures as a table, a column for every method."""
    from rich.console import Console
    from rich.table import Table

    people = f"{options.count} held-out {'person' if options.count == 1 else 'people'}"
    table: Any = Table("figure", *summary, title=f"{people}, bodies scaled to 1.7 m")
    for key in summary["variant"]:
        table.add_row(key, *(f"{row[key]:.3f}" if key in row else "" for row in summary.values()))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    if "variant_coarse" not in summary:
        lines.append(f"{options.variant} has no Stage 2: `variant` is the coarse surface.")
    return lines
