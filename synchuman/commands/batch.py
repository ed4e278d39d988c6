"""Make a GLB from every photo of a folder, or of several; a second call does what is missing."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from synchuman.commands import knobs
from synchuman.commands.device import own_turn
from synchuman.commands.outcome import explained, say, stop_on_signals
from synchuman.exit_codes import BAD_INPUT, FAILED, OK, STOPPED

if TYPE_CHECKING:
    from rich.console import Console

    from synchuman.commands.report import Item, Report
    from synchuman.events import Done, Event
    from synchuman.pipeline import SyncHuman
    from synchuman.settings import Settings

HELP = "make GLBs from folders of photos; resumable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `batch` understands."""
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    parser.add_argument(
        "--outputs", type=Path, required=True, help="a run's folder per photo goes here, and report.json"
    )
    parser.add_argument("--recursive", action="store_true", help="look into folders within folders, too")
    parser.add_argument("--again", action="store_true", help="also make anew what is done already")
    parser.add_argument(
        *knobs.spellings("stage1_only"), action="store_true", help="leave Stage 2 out; quicker, coarser"
    )
    parser.add_argument("--upload", metavar="ADDRESS", help="copy results there, too: s3://bucket/folder, …")
    knobs.add_model(parser)
    knobs.add_ray(parser)
    knobs.add_settings(parser)
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Run all photos that are not done; 0 when all are, 1 when some failed, 130 when it was stopped."""
    from rich.console import Console

    from synchuman.commands.remote import Remote
    from synchuman.commands.report import Report, find_photos
    from synchuman.commands.spread import run_spread

    console = Console(stderr=True)
    try:
        photos = find_photos(options.photos, options.recursive)
        settings = knobs.settings_of(options)
        remote = None if options.upload is None else Remote(options.upload)
        if remote is not None:
            remote.fetch_report(options.outputs)
        report = Report.open(options.outputs, None if remote is None else remote.put)
        if options.again:
            report.forget()
        wanted = {"variant": options.variant, "stage1_only": options.stage1_only, **settings.model_dump()}
        items = [report.item(name, path, wanted) for name, path in photos.items()]
        missing = [
            item
            for item in items
            if not (item.done or (item.ended and remote is not None and remote.has(item)))
        ]
        if len(missing) < len(items):
            console.print(f"{len(items) - len(missing)} of {len(items)} photos are done already.")
        with stop_on_signals() as stop:
            run = _run_all if options.ray is None else run_spread
            run(missing, settings, report, options, console, stop)
    except (Exception, KeyboardInterrupt) as error:
        return _give_up(error, options, console)
    return _close(items, report, options, console)


def _run_all(
    items: list[Item],
    settings: Settings,
    report: Report,
    options: argparse.Namespace,
    console: Console,
    stop: threading.Event,
) -> None:
    from synchuman.commands.follow import follow, told

    if not items:
        return
    with own_turn(options, console, stop):
        pipeline = knobs.load_model(options)
    for number, item in enumerate(items, 1):
        title = f"{number} of {len(items)}: {item.name}"
        try:
            # A turn for every photo: others who wait for the device come between two of them.
            with own_turn(options, console, stop):
                done: Done = follow(_events(pipeline, item, settings, report, options, stop), console, title)
        except (Exception, KeyboardInterrupt) as error:
            problem = explained(error, console)
            report.end(item, {"state": problem.state, "error": problem.told()})
            problem.show(console)
            if problem.exit == STOPPED:
                return
            if problem.code == "device_lost":  # nothing works on that device any more
                raise
            continue
        report.end(item, told(done))


def _events(
    pipeline: SyncHuman,
    item: Item,
    settings: Settings,
    report: Report,
    options: argparse.Namespace,
    stop: threading.Event,
) -> Iterator[Event]:
    # Views that an earlier call finished for the same photo and settings are not sampled again.
    if report.has_views(item):
        return pipeline.resume(settings, item.folder, stop, stage1_only=options.stage1_only)
    report.start(item)
    photo = item.photo.read_bytes()
    return pipeline.run(photo, settings, item.folder, stop, stage1_only=options.stage1_only)


def _give_up(error: BaseException, options: argparse.Namespace, console: Console) -> int:
    problem = explained(error, console)
    problem.show(console)
    if options.json:
        say({"error": problem.told()})
    return problem.exit


def _close(items: list[Item], report: Report, options: argparse.Namespace, console: Console) -> int:
    """Say what came out, as a table or as JSON, and return the exit code."""
    summary = report.summary(items)
    if options.json:
        say(summary)
    else:
        for item in items:
            if item.done:
                sys.stdout.write(f"{item.model}\n")
    failed = [item for item in items if item.entry.get("state") == "failed"]
    if failed:
        from rich.table import Table

        table = Table("photo", "why", title=f"{len(failed)} of {len(items)} photos failed")
        for item in failed:
            table.add_row(item.name, item.entry["error"]["message"])
        console.print(table, highlight=False)
    console.print(f"Report: {report.path}", highlight=False)
    if any(not item.ended and item not in failed for item in items):
        console.print("Stopped; the same call goes on with what is missing.", style="yellow")
        return STOPPED
    if not failed:
        return OK
    # All of them unusable: most likely the call is wrong, not a photo.
    unusable = all(item.entry["error"]["code"] == "bad_photo" for item in failed)
    return BAD_INPUT if unusable and len(failed) == len(items) else FAILED
