"""Download, check or find weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from synchuman.commands import knobs
from synchuman.commands.answers import Answer, Bars, answer
from synchuman.exit_codes import BAD_INPUT, FAILED, OK

HELP = "download, check or find weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `weights` understands."""
    parser.add_argument(
        "action",
        choices=("pull", "verify", "where", "prompts"),
        help="pull: download the published weights; verify: check every file; where: tell what is where; "
        "prompts: make the view prompts from the text encoder",
    )
    parser.add_argument("--variant", default="official", help="name of the weights, or a folder of them")
    parser.add_argument("--update", action="store_true", help="with pull: take the newest revision")
    parser.add_argument(
        "--embeds", type=Path, help="with prompts: folder of normal_embeds.pt and clr_embeds.pt instead"
    )
    parser.add_argument("--quick", action="store_true", help="with verify: sizes and headers, no hashes")
    knobs.add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Pull, verify or find weights."""
    return answer(
        options, {"pull": _pull, "verify": _verify, "where": _where, "prompts": _prompts}[options.action]
    )


def _pull(options: argparse.Namespace) -> Answer:
    from synchuman.loading import download_report
    from synchuman.weights.variants import OFFICIAL, find_variant, pull_official

    if options.variant != OFFICIAL:
        find_variant(options.variant)
        return BAD_INPUT, {"error": "not downloadable"}, [f"Only `{OFFICIAL}` is downloaded."]
    with Bars(options.json) as bars:
        folder = pull_official(download_report(bars.event), options.update)
    return OK, {"variant": OFFICIAL, "folder": str(folder)}, [f"{OFFICIAL}: {folder}"]


def _verify(options: argparse.Namespace) -> Answer:
    from synchuman.loading import download_report
    from synchuman.weights.verify import verify

    with Bars(options.json or options.quick) as bars:
        checked = verify(options.variant, not options.quick, download_report(bars.event, "verify"))
    lines = [f"{'ok ' if file.problem is None else 'BAD'} {file.name}  {file.says}" for file in checked]
    bad = [file for file in checked if file.problem is not None]
    lines.append(f"{len(checked) - len(bad)} of {len(checked)} files are as they should be.")
    return (FAILED if bad else OK), {"files": [vars(file) for file in checked], "ok": not bad}, lines


def _where(options: argparse.Namespace) -> Answer:
    from synchuman.weights.verify import locate

    found = locate()
    lines = [f"{name}: {path or 'not on this machine'}" for name, path in found.items()]
    return OK, found, lines


def _prompts(options: argparse.Namespace) -> Answer:
    from synchuman.weights.home import home
    from synchuman.weights.prompts import check_prompts, keep_prompts, read_embeds
    from synchuman.weights.variants import find_variant, make_own_prompts

    if options.embeds is not None:
        prompts = read_embeds(options.embeds)
        says = check_prompts(prompts)
        path = keep_prompts(prompts, home())
    else:
        folder = find_variant(options.variant)
        if folder is None:
            raise FileNotFoundError("The weights are not on this machine; run `weights pull` first.")
        path, says = make_own_prompts(folder)
    return OK, {"file": str(path), "compared": says}, [f"{path} ({says})"]
