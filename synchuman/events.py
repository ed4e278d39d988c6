"""What a run tells while it goes: one typed stream for the page, the service and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Progress:
    """One step of a stage is done.

    Attributes:
        stage: What is going on, as a word for users: "cut-out", "stage 1", "preview" (the coarse mesh),
            "stage 2", "surface", "atlas" or "texture"; while a variant loads: "download" (a step is a MiB)
            and "weights".
        step: Steps done, from 0 to total.
        total: Steps of this stage.
        eta: Estimated seconds to the end of the whole run; None while unknown.
        stages: All stages of this run in their order; empty while unknown.
    """

    stage: str
    step: int
    total: int
    eta: float | None = None
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class CutoutReady:
    """The person is cut out: `image` is [h, w, 4] uint8 RGBA, straight alpha, at the photo's resolution."""

    image: np.ndarray


@dataclass(frozen=True)
class ViewsReady:
    """The five views, as far as they are sampled.

    Attributes:
        colors: [5, s, s, 3] uint8, order of `views.VIEWS`.
        normals: [5, s, s, 3] uint8, normal * 0.5 + 0.5.
        final: Whether sampling is over.
    """

    colors: np.ndarray
    normals: np.ndarray
    final: bool


@dataclass(frozen=True)
class CoarseMeshReady:
    """A textured mesh from Stage 1 alone is on disk (GLB)."""

    path: Path


@dataclass(frozen=True)
class Done:
    """The run is over.

    Attributes:
        folder: The run folder.
        glb: The final model.
        seconds: Seconds per stage.
        faces: Triangles of the model.
        peak_memory: Peak resident memory of the process in bytes.
        warnings: Friendly sentences about the photo or the result.
        stage2: Whether the model is Stage 2's; else it is the coarse mesh, and a warning says why.
    """

    folder: Path
    glb: Path
    seconds: dict[str, float]
    faces: int
    peak_memory: int
    warnings: tuple[str, ...] = field(default=())
    stage2: bool = False


Event = Progress | CutoutReady | ViewsReady | CoarseMeshReady | Done


class Cancelled(Exception):
    """The run was stopped by its user."""


class PhotoError(ValueError):
    """The photo cannot be used; the message says why and what to do, in a sentence for users."""


class DeviceMemoryError(MemoryError):
    """The device has too little memory even for one network at a time; the message has the numbers."""
