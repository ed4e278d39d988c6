"""What commands that make models share: one option per field of `Settings`, which weights, where they run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synchuman.pipeline import SyncHuman

# Bounds and defaults stay with Settings: pydantic is slow to import and --help shall be instant.
SETTINGS = (
    ("stage1_steps", int, "sampling steps of Stage 1"),
    ("guidance", float, "how strictly the views follow the photo"),
    ("stage2_steps", int, "sampling steps of Stage 2"),
    ("stage2_guidance", float, "how strictly the fine surface follows the photo"),
    ("solver", str, "euler, or multistep for few steps with guidance"),
    ("seed", int, "of the noise"),
    ("matting", str, "background removal"),
    ("faces", int, "triangles of the mesh"),
    ("texture_size", int, "side of the texture in texels"),
)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the preset and one option per setting."""
    parser.add_argument("--preset", default=None, help="Fast, Balanced or Best; the options below change it")
    for name, kind, text in SETTINGS:
        parser.add_argument(*spellings(name), type=kind, help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add which weights, and where they run."""
    parser.add_argument("--variant", default="mini", help="mini, official, or a folder of weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    text = "resident (networks stay on the device), staged (only while they work) or auto (as memory allows)"
    parser.add_argument(*spellings("placement"), default="auto", help=text)
    parser.add_argument(*spellings("stage2_device"), help="another device for Stage 2, as cuda:1")


def load_model(options: argparse.Namespace) -> SyncHuman:
    """Load what `add_model` chose, with bars on the standard error."""
    from synchuman.commands.answers import Bars
    from synchuman.pipeline import SyncHuman

    where = options.device, options.dtype, options.placement, options.stage2_device
    with Bars(options.json) as bars:
        return SyncHuman.load(options.variant, *where, bars.event)


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add the cluster that computes instead of this machine."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="compute in this Ray cluster; without address the one at hand, else one on this machine",
    )
    parser.add_argument("--ray-actors", type=int, help="workers in the cluster (default: one per GPU)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the switch for programs."""
    parser.add_argument("--json", action="store_true", help="print the result, or the error, as JSON")


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given, by name; a command may have options for some of them only."""
    values = {name: getattr(options, name, None) for name, _, _ in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def settings_of(options: argparse.Namespace) -> Any:
    """Return the `Settings` of the variant's preset with what was given.

    Raises:
        pydantic.ValidationError: A value is out of its bounds.
        KeyError: There is no such preset.
    """
    from synchuman.presets import DEFAULT_PRESET, preset

    return preset(options.preset or DEFAULT_PRESET, options.variant, **given(options))


def spellings(name: str) -> tuple[str, ...]:
    """Return an option with underscores, as the published code spells them, and with dashes."""
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
