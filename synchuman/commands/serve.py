"""Open the page in a browser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from synchuman.commands import knobs
from synchuman.exit_codes import BAD_INPUT, OK

HELP = "open the page"
PORT = 7860  # with --ray; else the first free one from here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `serve` and app.py understand."""
    parser.add_argument("--host", default=None, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="open a public Gradio link, too; needs --auth")
    parser.add_argument("--auth", nargs="+", default=[], metavar="USER:PASSWORD", help="ask for a password")
    parser.add_argument("--allow-public", action="store_true", help="let others in without a password")
    parser.add_argument("--outputs", type=Path, help="folder for runs (default: a private temporary one)")
    parser.add_argument("--keep-hours", type=float, default=24.0, help="then runs and uploads are deleted")
    knobs.add_model(parser)
    knobs.add_ray(parser)


def execute(options: argparse.Namespace) -> int:
    """Open the page and stay until it is interrupted."""
    if options.ray is not None:
        return _serve_cluster(options)
    from synchuman.serving.exposure import Refused
    from synchuman.serving.launch import ServeOptions, check, serve

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


def _serve_cluster(options: argparse.Namespace) -> int:
    """Open the page on the service, whose workers are in the cluster."""
    from synchuman.serving.server import main

    if options.share:
        sys.stderr.write("--share does not go with --ray: put a proxy in front (docs/hosting.md).\n")
        return BAD_INPUT
    given = {
        "--host": options.host or "127.0.0.1",
        "--port": PORT if options.port is None else options.port,
        "--variant": options.variant,
        "--device": options.device,
        "--dtype": options.dtype,
        "--placement": options.placement,
        "--stage2-device": options.stage2_device,
        "--keep-hours": options.keep_hours,
        "--data": options.outputs,
        "--ray-actors": options.ray_actors,
    }
    arguments = ["--page", f"--ray={options.ray}"]
    arguments += [f"{name}={value}" for name, value in given.items() if value is not None]
    arguments += ["--allow-public"] if options.allow_public else []
    return main([*arguments, *(("--auth", *options.auth) if options.auth else ())])
