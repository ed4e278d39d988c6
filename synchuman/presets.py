"""Named settings, for each size of networks its own: what suits `mini` is too few for the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synchuman.settings import Settings

OFFICIAL = "official"  # `weights.variants` says so too, but brings torch

Presets = dict[str, dict[str, Any]]

# Guidance pits the surface of Stage 2 where a pose is rare, and gains nothing else yet.
MINI: Presets = {
    "Fast": {
        "solver": "euler",
        "stage1_steps": 8,
        "guidance": 1.0,
        "stage2_steps": 6,
        "stage2_guidance": 1.0,
        "texture_size": 1024,
        "faces": 20_000,
    },
    "Balanced": {
        "solver": "euler",
        "stage1_steps": 10,
        "guidance": 2.0,
        "stage2_steps": 12,
        "stage2_guidance": 1.0,
        "texture_size": 2048,
        "faces": 30_000,
    },
    "Best": {
        "solver": "euler",
        "stage1_steps": 40,
        "guidance": 2.5,
        "stage2_steps": 25,
        "stage2_guidance": 1.0,
        "texture_size": 4096,
        "faces": 60_000,
    },
}
# Steps and guidance of the published method, and fewer steps for the quick one.
PUBLISHED: Presets = {
    "Fast": {
        "solver": "multistep",
        "stage1_steps": 20,
        "guidance": 3.0,
        "stage2_steps": 12,
        "stage2_guidance": 6.0,
        "texture_size": 1024,
        "faces": 20_000,
    },
    "Balanced": {
        "solver": "euler",
        "stage1_steps": 50,
        "guidance": 3.0,
        "stage2_steps": 25,
        "stage2_guidance": 6.0,
        "texture_size": 2048,
        "faces": 30_000,
    },
    "Best": {
        "solver": "euler",
        "stage1_steps": 50,
        "guidance": 3.0,
        "stage2_steps": 25,
        "stage2_guidance": 6.0,
        "texture_size": 4096,
        "faces": 100_000,
    },
}
NAMES = tuple(MINI)
DEFAULT_PRESET = "Balanced"


def presets_of(variant: str) -> Presets:
    """Return the presets of a variant: the published one's for it and for a folder in its layout.

    Args:
        variant: See `SyncHuman.load`.
    """
    if variant == OFFICIAL:
        return PUBLISHED
    folder = Path(variant).expanduser()
    if folder.is_dir():
        from synchuman.weights.published import PublishedFolder

        if PublishedFolder.find(folder) is not None:
            return PUBLISHED
    return MINI


def preset(name: str, variant: str = "mini", **changes: Any) -> Settings:
    """Return the settings of a variant's preset with some of them changed.

    Raises:
        KeyError: No preset has that name; the message lists those there are.
    """
    presets = presets_of(variant)
    if name not in presets:
        raise KeyError(f"No preset {name!r}; there are {', '.join(presets)}.")
    return Settings(**{**presets[name], **changes})


def name_of(settings: Settings, variant: str) -> str | None:
    """Return which of a variant's presets settings follow; None for a user's own."""
    values = settings.model_dump().items()
    return next((name for name, preset in presets_of(variant).items() if preset.items() <= values), None)
