"""Weights by the name that users give: a variant that ships, the published ones, or a folder of them."""

from __future__ import annotations

from pathlib import Path

from synchuman.weights import hub
from synchuman.weights.files import CONFIG_FILE
from synchuman.weights.home import home
from synchuman.weights.published import FIRST, TEXT_ENCODER, PublishedFolder

SHIPPED = Path(__file__).resolve().parents[2] / "assets"
OFFICIAL = "official"


def find_variant(variant: str) -> Path | None:
    """Return the folder of the weights called `variant`; None for the published ones before their download.

    Raises:
        FileNotFoundError: There is no such variant.
    """
    if (SHIPPED / variant / CONFIG_FILE).is_file():
        return SHIPPED / variant
    if variant == OFFICIAL:
        return official_folder()
    folder = Path(variant).expanduser()
    if (folder / CONFIG_FILE).is_file() or PublishedFolder.find(folder) is not None:
        return folder
    raise FileNotFoundError(
        f"There are no weights called {variant!r}: neither {' nor '.join((*shipped(), OFFICIAL))}, nor a "
        f"folder with {CONFIG_FILE} or with the published checkpoint (OneStage, SecondStage, or ckpts)."
    )


def shipped() -> tuple[str, ...]:
    """Return the names of the variants that came with the app."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}")))


def official_folder() -> Path | None:
    """Return the folder of the published weights in the hub's cache; None before they were pulled whole."""
    folder = hub.pulled(hub.SYNCHUMAN)
    return None if folder is None or hub.pulled(hub.DINOV2) is None else folder


def pull_official(report: hub.Report = lambda name, done, total: None, update: bool = False) -> Path:
    """Download the published weights, make their view prompts, and return their folder.

    Raises:
        HubError: They cannot be had; the message says why and what to do.
        WeightsError: A file is not what it should be.
    """
    folder, _ = hub.pull(report=report, update=update)
    make_own_prompts(folder)
    return folder


def make_own_prompts(folder: Path) -> tuple[Path, str]:
    """Make the view prompts of a published checkpoint unless they are there.

    Returns:
        Their file, and how they compare with the published method's (see `prompts.check_prompts`).

    Raises:
        FileNotFoundError: The folder holds no published checkpoint, or no text encoder.
        WeightsError: The text encoder is damaged or another one.
    """
    from safetensors.torch import load_file

    from synchuman.weights.prompts import OTHER_SIZE, PROMPTS_KEY, check_prompts, keep_prompts, make_prompts

    checkpoint = PublishedFolder.find(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"{folder} holds no published checkpoint: OneStage is missing.")
    try:
        path = checkpoint.prompts
    except FileNotFoundError:
        prompts = make_prompts(checkpoint.root / TEXT_ENCODER)
        compared = check_prompts(prompts)
        place = home() if compared != OTHER_SIZE else checkpoint.root / FIRST
        return keep_prompts(prompts, place), compared
    return path, check_prompts(load_file(path)[PROMPTS_KEY])
