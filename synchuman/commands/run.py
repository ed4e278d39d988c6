"""Make a GLB from a photo."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synchuman.commands import knobs
from synchuman.commands.device import own_turn
from synchuman.commands.outcome import Problem, explained, say, stop_on_signals
from synchuman.exit_codes import OK

if TYPE_CHECKING:
    from rich.console import Console

HELP = "make a GLB from a photo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` and run_pipeline.py understand."""
    parser.add_argument("--image", type=Path, help="the photo: JPEG, PNG, WebP or HEIC")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run; made when missing")
    for name, text in (
        ("skip_stage1", "go on from the views in the folder"),
        ("carve", "with --skip_stage1: carve the structure from the views, where latent.npz is lost"),
        ("stage1_only", "leave Stage 2 out; quicker, with a coarse mesh"),
        ("retexture", "only decimate and texture the folder's model anew, with --faces and --texture_size"),
    ):
        parser.add_argument(*knobs.spellings(name), action="store_true", help=text)
    parser.add_argument("--person", type=int, help="which of several people, counted from 1, largest first")
    knobs.add_model(parser)
    knobs.add_settings(parser)
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Run a photo, or the rest of a run, with a progress bar."""
    from rich.console import Console

    from synchuman.commands.follow import follow, told

    console = Console(stderr=True)
    contradiction = _contradiction(options)
    if contradiction:
        return _fail(options, console, Problem("invalid", contradiction))
    try:
        settings = _settings(options)
        photo = None if options.image is None else _read_photo(options.image)
        # Texturing alone computes on one device.
        on = options.device if options.retexture else None
        with stop_on_signals() as stop, own_turn(options, console, stop, on):
            done = follow(_events(options, settings, photo, stop), console)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(options, console, explained(error, console))
    if options.json:
        say(told(done))
    else:
        sys.stdout.write(f"{done.glb}\n")
    return OK


def _fail(options: argparse.Namespace, console: Console, problem: Problem) -> int:
    problem.show(console)
    if options.json:
        say({"state": problem.state, "error": problem.told()})
    return problem.exit


def _contradiction(options: argparse.Namespace) -> str | None:
    """Say what is wrong with options that do not go together; None when they do."""
    if options.retexture and (options.image or options.skip_stage1 or options.stage1_only):
        return "--retexture takes the model in the folder; leave --image, --skip_stage1, --stage1-only out."
    if options.carve and not options.skip_stage1:
        return "--carve is for --skip_stage1: only then does the structure have to be made from the views."
    if options.image and options.skip_stage1:
        return "--skip_stage1 goes on from the views in the folder; leave --image out."
    if options.image is None and not options.skip_stage1 and not options.retexture:
        return "Give the photo with --image, or --skip_stage1 to go on from the folder."
    if options.person is not None and options.person < 1:
        return "--person counts from 1, largest first."
    return None


def _read_photo(path: Path) -> bytes:
    """Read a photo; one that cannot be used is told before anything is downloaded or loaded.

    Raises:
        PhotoError: It cannot be decoded.
    """
    from synchuman.photo.decode import decode

    photo = path.read_bytes()
    decode(photo)
    return photo


def _settings(options: argparse.Namespace) -> Any:
    from synchuman.settings import Settings

    if options.retexture and options.preset is None:
        from synchuman.runfolder import RunFolder

        # What is not given stays as the run had it.
        kept = RunFolder(options.workdir).read_record().get("settings", {})
        return Settings(**{**kept, **knobs.given(options)})
    return knobs.settings_of(options)


def _events(
    options: argparse.Namespace, settings: Any, photo: bytes | None, stop: threading.Event
) -> Iterator[Any]:
    """Return the events of what was asked for."""
    from synchuman.pipeline import SyncHuman

    if options.retexture:
        return SyncHuman.retexture(settings, options.workdir, stop, options.device)
    pipeline = knobs.load_model(options)
    only = options.stage1_only
    if photo is None:
        return pipeline.resume(settings, options.workdir, stop, stage1_only=only, carve=options.carve)
    person = None if options.person is None else options.person - 1
    return pipeline.run(photo, settings, options.workdir, stop, person=person, stage1_only=only)
