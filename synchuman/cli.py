"""The command line: `python -m synchuman run|serve|evaluate|weights|doctor|selfcheck`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from synchuman import __version__, commands

# What the shell gets: a wrong call is argparse's own 2.
OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 1 failed, 2 wrong call, 3 unusable input, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="synchuman", description="One photo of a person in, a 3D human out."
    )
    parser.add_argument("--version", action="version", version=f"SyncHuman Studio {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log what is going on")
    subcommands = parser.add_subparsers(dest="command", required=True)
    run = subcommands.add_parser(
        "run", help="make a GLB from a photo", description="Make a GLB from a photo."
    )
    add_run_arguments(run)
    run.set_defaults(function=run_command)
    serve = subcommands.add_parser("serve", help="open the page", description="Open the page in a browser.")
    add_serve_arguments(serve)
    serve.set_defaults(function=serve_command)
    for name, text, add, function in (
        (
            "weights",
            "download, check or find weights",
            commands.add_weights_arguments,
            commands.weights_command,
        ),
        ("doctor", "tell what runs on this machine", commands.add_doctor_arguments, commands.doctor_command),
        (
            "selfcheck",
            "check a variant's networks on this machine",
            commands.add_selfcheck_arguments,
            commands.selfcheck_command,
        ),
    ):
        other = subcommands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add(other)
        other.set_defaults(function=function)
    measure = subcommands.add_parser("evaluate", help="measure the weights on unseen people", add_help=False)
    measure.set_defaults(function=evaluate_command)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "evaluate":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s"
    )
    options.rest = rest
    return options.function(options)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` and run_pipeline.py understand; one option per field of `Settings`."""
    parser.add_argument("--image", type=Path, help="the photo: JPEG, PNG, WebP or HEIC")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run; made when missing")
    for name, text in (
        ("skip_stage1", "go on from the views in the folder"),
        ("carve", "with --skip_stage1: carve the structure from the views, where latent.npz is lost"),
        ("stage1_only", "leave Stage 2 out; quicker, with a coarse mesh"),
        ("retexture", "only decimate and texture the folder's model anew, with --faces and --texture_size"),
    ):
        parser.add_argument(*_spellings(name), action="store_true", help=text)
    parser.add_argument("--person", type=int, help="which of several people, counted from 1, largest first")
    add_model_arguments(parser)
    parser.add_argument("--preset", default=None, help="Fast, Balanced or Best; the options below change it")
    # Bounds and defaults stay with Settings: pydantic is slow to import and --help shall be instant.
    for name, kind, text in (
        ("stage1_steps", int, "sampling steps of Stage 1"),
        ("guidance", float, "how strictly the views follow the photo"),
        ("stage2_steps", int, "sampling steps of Stage 2"),
        ("stage2_guidance", float, "how strictly the fine surface follows the photo"),
        ("seed", int, "of the noise"),
        ("matting", str, "background removal"),
        ("faces", int, "triangles of the mesh"),
        ("texture_size", int, "side of the texture in texels"),
    ):
        parser.add_argument(*_spellings(name), type=kind, help=text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which weights, and where they run."""
    parser.add_argument("--variant", default="mini", help="mini, official, or a folder of weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    text = "resident (networks stay on the device), staged (only while they work) or auto (as memory allows)"
    parser.add_argument(*_spellings("placement"), default="auto", help=text)
    parser.add_argument(*_spellings("stage2_device"), help="another device for Stage 2, as cuda:1")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `serve` and app.py understand."""
    parser.add_argument("--host", default=None, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="open a public Gradio link, too; needs --auth")
    parser.add_argument("--auth", nargs="+", default=[], metavar="USER:PASSWORD", help="ask for a password")
    parser.add_argument("--allow-public", action="store_true", help="let others in without a password")
    parser.add_argument("--outputs", type=Path, help="folder for runs (default: a private temporary one)")
    parser.add_argument("--keep-hours", type=float, default=24.0, help="then runs and uploads are deleted")
    add_model_arguments(parser)


def run_command(options: argparse.Namespace) -> int:
    """Run a photo, or the rest of a run, with a progress bar."""
    from rich.console import Console

    console = Console(stderr=True)
    from pydantic import ValidationError

    from synchuman.events import Cancelled, PhotoError
    from synchuman.runfolder import RunFolderError
    from synchuman.weights.hub import HubError

    contradiction = _contradiction(options)
    if contradiction:
        console.print(contradiction, style="red")
        return BAD_INPUT
    try:
        _follow(_events(options, _settings(options), console), console)
    except (Cancelled, KeyboardInterrupt):
        console.print("Stopped.", style="yellow")
        return STOPPED
    except ValidationError as error:
        for problem in error.errors():
            console.print(f"--{problem['loc'][0]}: {problem['msg']}", style="red", highlight=False)
        return BAD_INPUT
    except (PhotoError, RunFolderError, FileNotFoundError, IsADirectoryError, KeyError, ValueError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        console.print(str(text), style="red", highlight=False)
        return BAD_INPUT
    except (HubError, MemoryError) as error:
        console.print(str(error), style="red", highlight=False)
        return FAILED
    except Exception:
        console.print_exception()
        return FAILED
    return OK


def serve_command(options: argparse.Namespace) -> int:
    """Open the page and stay until it is interrupted."""
    from synchuman.serving.launch import Refused, ServeOptions, check, serve

    pairs = [tuple(pair.split(":", 1)) for pair in options.auth]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        sys.stderr.write("--auth takes user:password.\n")
        return BAD_INPUT
    chosen = ServeOptions(
        host=options.host or "127.0.0.1",
        port=options.port,
        share=options.share,
        auth=tuple((user, password) for user, password in pairs),
        allow_public=options.allow_public,
        variant=options.variant,
        device=options.device,
        dtype=options.dtype,
        placement=options.placement,
        stage2_device=options.stage2_device,
        outputs=options.outputs,
        keep_hours=options.keep_hours,
    )
    try:
        check(chosen)
        serve(chosen, announce=lambda address: sys.stdout.write(f"The page is up: {address}\n"))
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    return OK


def evaluate_command(options: argparse.Namespace) -> int:
    """Measure the weights; all other arguments go to the evaluation."""
    # The one place that reaches up into training: users look for measuring here, next to running.
    from synchuman.training.evaluate import main as evaluate

    return evaluate(options.rest)


def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


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
    return None


def _settings(options: argparse.Namespace) -> Any:
    from synchuman.settings import DEFAULT_PRESET, Settings, preset

    given = {name: getattr(options, name) for name in Settings.model_fields}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.retexture and options.preset is None:
        from synchuman.runfolder import RunFolder

        # What is not given stays as the run had it.
        return Settings(**{**RunFolder(options.workdir).read_record().get("settings", {}), **changes})
    return preset(options.preset or DEFAULT_PRESET, **changes)


def _events(options: argparse.Namespace, settings: Any, console: Any) -> Iterator[Any]:
    """Return the events of what was asked for."""
    from synchuman.pipeline import SyncHuman

    if options.retexture:
        return SyncHuman.retexture(settings, options.workdir)
    photo = None if options.image is None else options.image.read_bytes()
    with commands.Bars(console.quiet) as bars:
        pipeline = SyncHuman.load(
            options.variant,
            options.device,
            options.dtype,
            options.placement,
            options.stage2_device,
            bars.event,
        )
    only = options.stage1_only
    if photo is None:
        return pipeline.resume(settings, options.workdir, stage1_only=only, carve=options.carve)
    person = None if options.person is None else options.person - 1
    return pipeline.run(photo, settings, options.workdir, person=person, stage1_only=only)


def _follow(events: Iterator[Any], console: Any) -> None:
    """Show how a run goes, and print the path of the model."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    from synchuman.events import Done, Progress

    stage, left = TextColumn("{task.description:>9}"), TextColumn("{task.fields[left]}")
    with Bars(stage, BarColumn(), MofNCompleteColumn(), left, console=console) as bars:
        tasks: dict[str, Any] = {}
        for event in events:
            if isinstance(event, Progress):
                if event.stage not in tasks:
                    tasks[event.stage] = bars.add_task(event.stage, total=event.total, left="")
                eta = "" if event.eta is None else f"{event.eta:.0f} s left"
                bars.update(tasks[event.stage], completed=event.step, total=event.total, left=eta)
            elif isinstance(event, Done):
                for task in bars.tasks:
                    bars.update(task.id, completed=task.total, left="")
                done = event
    for sentence in done.warnings:
        console.print(sentence, style="yellow", highlight=False)
    sys.stdout.write(f"{done.glb}\n")
