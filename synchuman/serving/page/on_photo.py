"""What happens when the photo is touched: cut it out, pick a person, touch the cut-out up."""

from __future__ import annotations

import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synchuman.events import PhotoError
from synchuman.photo import PreparedPhoto, prepare, touchup
from synchuman.presets import presets_of
from synchuman.serving import uploads
from synchuman.serving.page import cards, controls, texts
from synchuman.settings import MAX_SEED

if TYPE_CHECKING:
    from synchuman.photo.people import Box
    from synchuman.serving.page.parts import Parts
    from synchuman.serving.page.runs import Runs

PREVIEW_SIDE = 1024  # of the cut-out shown on the page, pixels
EDITOR_SIDE = 760
PEOPLE_SIDE = 560
SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")
RING = (20, 184, 166)

Update = dict[Any, Any]


class PhotoHandlers:
    """The functions of the cards "Photo" and "Cut-out"."""

    def __init__(self, runs: Runs, parts: Parts, cache: Path) -> None:
        """Serve one page; `cache` is where touched-up cut-outs are kept for a while."""
        self.runs = runs
        self.parts = parts
        self.cache = cache

    def cut_out(self, request: gr.Request, photo: str | None, person: int | None, matting: str) -> Update:
        """Cut the person out of a photo and show it; what is wrong with the photo comes as a sentence."""
        parts, say = self.parts, texts.of_request(request)
        nothing = {
            parts.cutout: gr.update(value=None, visible=False),
            parts.person: gr.update(visible=False, value=None, choices=[]),
            parts.people: gr.update(visible=False, value=None),
            parts.generate: gr.update(interactive=False),
            parts.touch_up: gr.update(visible=False),
            parts.editor_panel: gr.update(visible=False),
            parts.touched: None,
        }
        if photo is None:
            return {**nothing, parts.cutout_note: cards.empty_cutout(say)}
        try:
            prepared = _prepared(photo, matting, person)
        except PhotoError as error:
            return {**nothing, parts.cutout_note: cards.note(say.sentence(str(error)), "error")}
        report = prepared.report
        several = len(report.people) > 1
        shown: Update = {
            **nothing,
            parts.cutout: gr.update(value=fit(prepared.cutout), visible=True),
            parts.cutout_note: cards.warnings(say, report.warnings),
            parts.generate: gr.update(
                interactive=not self.runs.goes_on(request.session_hash or ""),
                value=say("Generate anyway") if report.confirm else say("Generate"),
            ),
            parts.touch_up: gr.update(visible=True),
        }
        if several:
            choices = [(say("Person {number}", number=i + 1), i) for i in range(len(report.people))]
            shown[parts.person] = gr.update(visible=True, choices=choices, value=person or 0)
            shown[parts.people] = gr.update(
                visible=True, value=_numbered(prepared.image, report.people, person or 0)
            )
        if Path(photo).suffix.lower() not in SHOWN_BY_BROWSERS:
            shown[parts.photo] = gr.update(value=prepared.image)
        return shown

    def open_editor(self, photo: str | None, person: int | None, matting: str, touched: str | None) -> Update:
        """Show the photo to paint on, with what is cut away faded, in the cut-out's place."""
        parts = self.parts
        if photo is None:
            return {parts.editor_panel: gr.update(visible=False)}
        prepared = _prepared(photo, matting, person)
        picture = touchup.canvas(prepared.image, _current(prepared, touched), EDITOR_SIDE)
        return {
            parts.editor_panel: gr.update(visible=True),
            parts.touch_up: gr.update(visible=False),
            parts.cutout: gr.update(visible=False),
            parts.editor: {"background": picture, "layers": [], "composite": None},
        }

    def apply(
        self,
        request: gr.Request,
        photo: str | None,
        person: int | None,
        matting: str,
        touched: str | None,
        editor: dict[str, Any] | None,
    ) -> Update:
        """Take the strokes over into the cut-out."""
        parts, say = self.parts, texts.of_request(request)
        if photo is None or editor is None or editor.get("background") is None:
            return {parts.editor_panel: gr.update(visible=False)}
        prepared = _prepared(photo, matting, person)
        try:
            result = touchup.apply_strokes(prepared.image, _current(prepared, touched), _strokes(editor))
        except PhotoError as error:
            return {parts.cutout_note: cards.note(say.sentence(str(error)), "error")}
        path = self.cache / f"touched-{uuid.uuid4().hex}.png"
        Image.fromarray(result).save(path, compress_level=1)
        return {
            parts.touched: str(path),
            parts.cutout: gr.update(value=fit(result), visible=True),
            parts.cutout_note: cards.note(say("Touched up by hand."), "good"),
            parts.editor_panel: gr.update(visible=False),
            parts.touch_up: gr.update(visible=True),
        }

    def choose_preset(self, name: str | None) -> list[Any]:
        """Return updates of all settings' controls, in their order, for a preset of the weights in use."""
        values = presets_of(self.runs.service.options.variant)[name] if name else {}
        return [gr.update(value=values[field]) if field in values else gr.skip() for field in controls.FIELDS]


def photo_bytes(photo: str, touched: str | None) -> bytes:
    """Return what a run is given: the touched-up cut-out if there is one, else the photo."""
    return uploads.read(Path(touched or photo))


def to_viewable(request: gr.Request, file: str) -> np.ndarray:
    """Decode a photo of a kind that browsers do not show (HEIC), for the photo field.

    Raises:
        gr.Error: It cannot be read.
    """
    from synchuman.photo.decode import decode

    try:
        return decode(uploads.read(Path(file)))
    except PhotoError as error:
        raise gr.Error(texts.of_request(request).sentence(str(error)), print_exception=False) from error


def choose_seed(randomise: bool, seed: int) -> int:
    """Return the seed of the next run."""
    import random

    return random.randint(0, MAX_SEED) if randomise else seed


def fit(rgba: np.ndarray) -> np.ndarray:
    """Crop a cut-out to its person and shrink it for the page."""
    image = Image.fromarray(rgba)
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return np.asarray(image)


@lru_cache(maxsize=4)
def _prepared(photo: str, matting: str, person: int | None) -> PreparedPhoto:
    # Gradio names uploads by their content: the same path is the same photo.
    return prepare(uploads.read(Path(photo)), matting, person)


def _current(prepared: PreparedPhoto, touched: str | None) -> np.ndarray:
    if touched is None:
        return prepared.cutout
    with Image.open(touched) as image:
        return np.asarray(image.convert("RGBA"))


def _strokes(editor: dict[str, Any]) -> np.ndarray:
    """Lay the editor's layers over each other, [h, w, 4] uint8."""
    height, width = editor["background"].shape[:2]
    whole = Image.new("RGBA", (width, height))
    for layer in editor["layers"]:
        whole.alpha_composite(Image.fromarray(layer).convert("RGBA").resize((width, height)))
    return np.asarray(whole)


def _numbered(image: np.ndarray, people: tuple[Box, ...], chosen: int) -> np.ndarray:
    """Draw a numbered frame around everybody."""
    picture = Image.fromarray(image).convert("RGB")
    scale = min(PEOPLE_SIDE / max(picture.size), 1.0)
    picture = picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(20)
    for i, box in enumerate(people):
        left, top, right, bottom = (round(side * scale) for side in box)
        color = RING if i == chosen else (250, 250, 250)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=color, width=4 if i == chosen else 2)
        pen.rectangle((left, top, left + 28, top + 28), fill=color)
        pen.text((left + 14, top + 14), str(i + 1), fill=(10, 30, 30), font=font, anchor="mm")
    return np.asarray(picture)
