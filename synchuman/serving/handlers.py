"""What happens when something is touched on the page: photo to cut-out, cut-out to model, stop."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from synchuman.events import (
    Cancelled,
    CoarseMeshReady,
    CutoutReady,
    Done,
    PhotoError,
    Progress,
    ViewsReady,
)
from synchuman.runfolder import RunFolder
from synchuman.serving import cards, controls
from synchuman.serving.runner import Busy, Runs, Waiting
from synchuman.settings import MAX_SEED, PRESETS, Settings
from synchuman.views import VIEWS

if TYPE_CHECKING:
    from synchuman.serving.page import Parts

LOGGER = logging.getLogger(__name__)

PREVIEW_SIDE = 1024  # of the cut-out shown on the page, pixels
SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")

Update = dict[Any, Any]


class Handlers:
    """The page's functions; they hold no state of their own beyond the runner and the page's parts."""

    def __init__(self, runner: Runs, parts: Parts) -> None:
        """Serve one page."""
        self.runner = runner
        self.parts = parts

    def cut_out(self, photo: str | None, person: int | None, matting: str) -> Update:
        """Cut the person out of a photo and show it; what is wrong with the photo comes as a sentence."""
        from synchuman.photo import prepare

        parts = self.parts
        nothing = {
            parts.cutout: gr.update(value=None, visible=False),
            parts.person: gr.update(visible=False, value=None, choices=[]),
            parts.generate: gr.update(interactive=False),
        }
        if photo is None:
            return {**nothing, parts.cutout_note: cards.EMPTY_CUTOUT}
        try:
            prepared = prepare(Path(photo).read_bytes(), matting, person)
        except PhotoError as error:
            return {**nothing, parts.cutout_note: cards.note(str(error), "error")}
        shown: Update = {
            parts.cutout: gr.update(value=_fit(prepared.cutout), visible=True),
            parts.cutout_note: cards.warnings(tuple(prepared.report.warnings)),
            parts.person: _people(len(prepared.report.people), person),
            parts.generate: gr.update(
                interactive=True, value="Generate anyway" if prepared.report.confirm else "Generate"
            ),
        }
        if Path(photo).suffix.lower() not in SHOWN_BY_BROWSERS:
            shown[parts.photo] = gr.update(value=prepared.image)
        return shown

    def generate(
        self, request: gr.Request, photo: str | None, person: int | None, *values: Any
    ) -> Iterator[Update]:
        """Make the model; streams progress, views, result. `values` are the settings in their order."""
        parts = self.parts
        try:
            if photo is None:
                raise PhotoError("Choose a photo first.")
            settings = controls.read(values)
            yield {**self._busy(True), parts.status: cards.progress(Progress("cut-out", 0, 1))}
            session = request.session_hash or uuid.uuid4().hex
            events = self.runner.run(session, Path(photo).read_bytes(), settings, person, request.username)
            for event in events:
                update = self._show(event, settings)
                if update:
                    yield update
        except Cancelled:
            yield {
                **self._busy(False),
                parts.status: cards.note("Stopped. Photo and settings are still here.", "stopped"),
            }
        except Exception as error:
            sentence = _sentence(error)
            yield {**self._busy(False), parts.status: cards.note(sentence, "error")}
            # Callers of the endpoint get an error, too, and not a finished run without a model.
            raise gr.Error(sentence, print_exception=False) from error

    def cancel(self, request: gr.Request) -> Update:
        """Ask this session's run to stop."""
        if request.session_hash is None or not self.runner.cancel(request.session_hash):
            return {self.parts.cancel: gr.update(interactive=False)}
        return {
            self.parts.cancel: gr.update(interactive=False, value="Stopping …"),
            self.parts.status: cards.note("Stopping after this step …", "running"),
        }

    def _busy(self, busy: bool) -> Update:
        return {
            self.parts.generate: gr.update(interactive=not busy),
            self.parts.cancel: gr.update(interactive=busy, visible=busy, value="Cancel"),
        }

    def _show(self, event: object, settings: Settings) -> Update:
        parts = self.parts
        match event:
            case Progress():
                return {parts.status: cards.progress(event)}
            case Waiting():
                return {parts.status: cards.waiting(event)}
            case CutoutReady():
                return {parts.cutout: gr.update(value=_fit(event.image), visible=True)}
            case ViewsReady():
                return {
                    parts.views: gr.update(visible=True),
                    parts.colors: _captioned(event.colors),
                    parts.normals: _captioned(event.normals),
                }
            case CoarseMeshReady():
                return {parts.model: gr.update(value=str(event.path), visible=True), parts.empty: hidden()}
            case Done():
                return {
                    **self._busy(False),
                    parts.status: cards.finished(event),
                    parts.model: gr.update(value=str(event.glb), visible=True),
                    parts.empty: hidden(),
                    parts.glb: gr.update(value=str(event.glb), visible=True),
                    parts.archive: gr.update(
                        value=str(RunFolder(event.folder).write_views_archive()), visible=True
                    ),
                    parts.numbers: gr.update(value=cards.statistics(event, settings.seed), visible=True),
                }
        return {}


def hidden() -> Any:
    """Return the update that hides a component."""
    return gr.update(visible=False)


def choose_seed(randomise: bool, seed: int) -> int:
    """Return the seed of the next run."""
    return random.randint(0, MAX_SEED) if randomise else seed


def choose_preset(name: str | None) -> list[Any]:
    """Return updates of all settings' controls, in their order, for a preset."""
    values = PRESETS[name] if name else {}
    return [gr.update(value=values[field]) if field in values else gr.skip() for field in controls.FIELDS]


def to_viewable(file: str) -> np.ndarray:
    """Decode a photo of a kind that browsers do not show (HEIC), for the photo field.

    Raises:
        gr.Error: It cannot be read.
    """
    from synchuman.photo.decode import decode

    try:
        return decode(Path(file).read_bytes())
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _people(count: int, chosen: int | None) -> Any:
    if count < 2:
        return gr.update(visible=False, value=None, choices=[])
    choices = [(f"Person {i + 1}", i) for i in range(count)]
    return gr.update(visible=True, choices=choices, value=chosen or 0)


def _captioned(images: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return stored views the way a camera would see them, each with its name."""
    shown = [image[:, ::-1] if view.mirrored else image for image, view in zip(images, VIEWS)]
    return [(np.ascontiguousarray(image), view.name.capitalize()) for image, view in zip(shown, VIEWS)]


def _fit(rgba: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(rgba)
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return np.asarray(image)


def _sentence(error: Exception) -> str:
    if isinstance(error, PhotoError | Busy | ValueError):
        return str(error)
    if isinstance(error, gr.Error):  # of a Space: the visitor's time on its card is used up
        return str(error.message)
    LOGGER.error("a run failed", exc_info=error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "The memory of this machine is too small for that. Try a smaller texture or fewer faces."
    if isinstance(error, OSError):
        return f"A file could not be read or written: {error.strerror or error}. Is the disk full?"
    return "Something went wrong on our side. Photo and settings are still here; please try again."
