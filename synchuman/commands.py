"""The commands beside `run` and `serve`: weights, doctor, selfcheck. Text for people, --json for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 3, 130


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `doctor` understands."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_selfcheck_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `selfcheck` understands."""
    parser.add_argument("--variant", default="official", help="name of the weights, or a folder of them")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--networks-only", action="store_true", help="leave the run of a photo out")
    parser.add_argument("--json", action="store_true", help="print JSON")


def weights_command(options: argparse.Namespace) -> int:
    """Pull, verify or find weights."""
    return _answered(
        options, {"pull": _pull, "verify": _verify, "where": _where, "prompts": _prompts}[options.action]
    )


def doctor_command(options: argparse.Namespace) -> int:
    """Tell what this machine has, and what will run on it."""
    from synchuman.doctor import examine

    report = examine()
    _print(options, report.as_dict(), report.lines())
    return OK if report.healthy else FAILED


def selfcheck_command(options: argparse.Namespace) -> int:
    """Check a variant's networks on this machine."""

    def check(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
        from synchuman.selfcheck import check_variant

        with Bars(options.json) as bars:
            report = check_variant(
                options.variant, options.device, options.dtype, not options.networks_only, bars.event
            )
        return (OK if report.passed else FAILED), report.as_dict(), report.lines()

    return _answered(options, check)


class Bars:
    """Progress bars on standard error, one for every stage of `Progress`; nothing with `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description:>9}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
        )
        self._bars = RichProgress(*columns, console=Console(stderr=True), disable=quiet)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def event(self, event: Any) -> None:
        """Show a `Progress`."""
        name = f"{event.stage} MiB" if event.stage == "download" else event.stage
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=event.total, left="")
        left = "" if event.eta is None else f"{event.eta:.0f} s left"
        self._bars.update(self._tasks[name], completed=event.step, total=event.total, left=left)


def _pull(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from synchuman.loading import download_report
    from synchuman.weights.variants import OFFICIAL, find_variant, pull_official

    if options.variant != OFFICIAL:
        find_variant(options.variant)
        return BAD_INPUT, {"error": "not downloadable"}, [f"Only `{OFFICIAL}` is downloaded."]
    with Bars(options.json) as bars:
        folder = pull_official(download_report(bars.event), options.update)
    return OK, {"variant": OFFICIAL, "folder": str(folder)}, [f"{OFFICIAL}: {folder}"]


def _verify(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from synchuman.loading import download_report
    from synchuman.weights.verify import verify

    with Bars(options.json or options.quick) as bars:
        checked = verify(options.variant, not options.quick, download_report(bars.event, "verify"))
    lines = [f"{'ok ' if file.problem is None else 'BAD'} {file.name}  {file.says}" for file in checked]
    bad = [file for file in checked if file.problem is not None]
    lines.append(f"{len(checked) - len(bad)} of {len(checked)} files are as they should be.")
    return (FAILED if bad else OK), {"files": [vars(file) for file in checked], "ok": not bad}, lines


def _where(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from synchuman.weights.verify import locate

    found = locate()
    lines = [f"{name}: {path or 'not on this machine'}" for name, path in found.items()]
    return OK, found, lines


def _prompts(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
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


def _answered(
    options: argparse.Namespace, work: Callable[[argparse.Namespace], tuple[int, dict[str, Any], list[str]]]
) -> int:
    """Do something, print what it says, and return its exit code; errors are said, not shown as a trace."""
    from synchuman.events import Cancelled

    try:
        code, data, lines = work(options)
    except (Cancelled, KeyboardInterrupt):
        sys.stderr.write("Stopped. What has come is kept.\n")
        return STOPPED
    except (OSError, ValueError, MemoryError) as error:
        # A missing or damaged file, a wrong name, no network, no memory: the message says what to do.
        from synchuman.weights.hub import HubError

        failed = isinstance(error, (HubError, MemoryError))
        code, data, lines = (FAILED if failed else BAD_INPUT), {"error": str(error)}, []
        sys.stderr.write("" if options.json else f"{error}\n")
    _print(options, data, lines)
    return code


def _print(options: argparse.Namespace, data: dict[str, Any], lines: list[str]) -> None:
    text = json.dumps(data, indent=2) + "\n" if options.json else "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text)
