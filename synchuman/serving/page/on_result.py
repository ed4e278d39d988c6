"""What happens with a result: looks and pictures of it, earlier runs; and when the page is opened."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gradio as gr
import numpy as np

from synchuman.presets import NAMES, name_of
from synchuman.serving.jobs import Job, ServiceError, State
from synchuman.serving.page import capabilities, cards, controls, texts
from synchuman.serving.page.on_run import who_is
from synchuman.serving.page.runs import HISTORY, Runs
from synchuman.serving.page.texts import Texts
from synchuman.surface.looks import look_glb

if TYPE_CHECKING:
    from synchuman.serving.page.parts import Parts

Update = dict[Any, Any]

LOOKS = {"texture": "Colour", "clay": "Clay", "normals": "Normals", "wire": "Wire"}
KINDS = {"colors": "Colour", "normals": "Normals"}
TURNS = 'class="turntable"'  # in the HTML of a turntable
THUMBNAIL = "OneStage/color_0.png"


class ResultHandlers:
    """The functions of the card "Result" once there is one, of "Your runs", and of the page's opening."""

    def __init__(self, runs: Runs, parts: Parts, cache: Path) -> None:
        """Serve one page; `cache` is where pictures and looks of models are kept for a while."""
        self.runs = runs
        self.parts = parts
        self.cache = cache

    def opened(self, request: gr.Request, kept: list[str] | None) -> Update:
        """Fill in what depends on the language, the weights and the visitor; name the run to show."""
        parts, say = self.parts, texts.of_request(request)
        wanted = (request.query_params or {}).get("run", "")
        return {
            parts.preset: gr.update(choices=[(say(name), name) for name in NAMES]),
            parts.look: gr.update(choices=[(say(text), name) for name, text in LOOKS.items()]),
            parts.kind: gr.update(choices=[(say(text), name) for name, text in KINDS.items()]),
            parts.run_id: wanted,
            **self.refresh(request),
            **self.history(request, kept),
        }

    def refresh(self, request: gr.Request) -> Update:
        """Look whether the weights have been read by now, and what they can do."""
        parts, say = self.parts, texts.of_request(request)
        text, state = capabilities.state_of(self.runs.service, say)
        update = {
            parts.chip: cards.chip(text, state),
            parts.abilities: cards.capabilities(say, capabilities.list_all(self.runs.service)),
            parts.timer: gr.Timer(active=state == "busy"),
        }
        about = capabilities.about_worker(self.runs.service)
        # As they were built, they are on: anew they would be drawn under the hands of somebody who types.
        if about and not about["stage2"]:
            reason = say("Off: the weights in use have no Stage 2.")
            for name in capabilities.OF_STAGE2:
                slider = parts.settings[controls.FIELDS.index(name)]
                update[slider] = gr.update(interactive=False, info=reason)
        return update

    def history(self, request: gr.Request, kept: list[str] | None) -> Update:
        """Show the visitor's runs: those of their name, or for strangers those that their browser knows."""
        parts, say, who = self.parts, texts.of_request(request), who_is(request)
        jobs = self.runs.mine(who) or self.runs.some(who, list(kept or []))
        shown = [(job, picture) for job in jobs if (picture := self._picture(job)) is not None]
        return {
            parts.runs_card: gr.update(visible=bool(shown)),
            parts.runs: [
                (picture, _caption(say, job, self.runs.service.options.variant)) for job, picture in shown
            ],
            parts.ids: [job.id for job, _ in shown],
        }

    def remember(self, request: gr.Request, run_id: str, kept: list[str] | None) -> Update:
        """Keep a run's name in the browser, and show the runs anew."""
        ids = [run_id, *(name for name in kept or [] if name != run_id)][:HISTORY] if run_id else kept
        return {self.parts.kept: ids, **self.history(request, ids)}

    def look(self, request: gr.Request, run_id: str, look: str) -> Any:
        """Show the model as clay, as normals, as wires, or as it is."""
        job, model = self._result(request, run_id)
        if look == "texture":
            return str(model)
        if look not in LOOKS:
            raise gr.Error(f"There is no look {look!r}.", print_exception=False)
        path = self._place(job) / f"{look}.glb"
        if not path.exists():
            path.write_bytes(look_glb(model, look))  # type: ignore[arg-type]
        return str(path)

    def compare(self, request: gr.Request, run_id: str, there: Any) -> Any:
        """Put photo and front of the model beside each other, unless they are."""
        from synchuman.surface.formats.read import read_glb
        from synchuman.surface.pictures import beside_photo

        if not run_id or (there is not None and any(picture is not None for picture in there)):
            return gr.skip()
        job, model = self._result(request, run_id)
        return beside_photo(read_glb(model.read_bytes()), self.runs.folder(job).read_views()[0])

    def before_turntable(self, request: gr.Request, there: str) -> Any:
        """Say that pictures are made, unless they are there."""
        say = texts.of_request(request)
        return gr.skip() if TURNS in there else cards.hint(say("Taking pictures from all around …"))

    def turntable(self, request: gr.Request, run_id: str, there: str) -> Any:
        """Render the model from all around, unless that is done."""
        from synchuman.surface import pictures
        from synchuman.surface.formats.read import read_glb

        if TURNS in there or not run_id:
            return gr.skip()
        job, model = self._result(request, run_id)
        sheet = self._place(job) / "turntable.webp"
        if not sheet.exists():
            sheet.write_bytes(pictures.turntable_sheet(read_glb(model.read_bytes())))
        say = texts.of_request(request)
        return cards.turntable(say, job, _address(sheet), pictures.FRAMES, pictures.COLUMNS)

    def take_over(self, request: gr.Request, run_id: str) -> Update:
        """Put photo and settings of the shown run back into the controls."""
        job, _ = self._result(request, run_id)
        parts, settings = self.parts, job.request.settings
        values = settings.model_dump()
        return {
            parts.photo: str(self.runs.folder(job).first / "input.png"),
            parts.touched: None,
            parts.preset: name_of(settings, self.runs.service.options.variant),
            **{control: values[name] for name, control in zip(controls.FIELDS, parts.settings)},
        }

    def delete(self, request: gr.Request, run_id: str, sure: bool, kept: list[str] | None) -> Update:
        """Delete the shown run with all its files."""
        if not sure:
            return {self.parts.run_id: run_id}
        try:
            self.runs.delete(who_is(request), run_id)
        except ServiceError as error:
            raise gr.Error(texts.of_request(request).sentence(str(error)), print_exception=False) from error
        return {self.parts.run_id: "", **self.history(request, kept)}

    def _result(self, request: gr.Request, run_id: str) -> tuple[Job, Path]:
        say = texts.of_request(request)
        try:
            job = self.runs.find(who_is(request), run_id)
        except ServiceError as error:
            raise gr.Error(say.sentence(str(error)), print_exception=False) from error
        if job.state is not State.DONE:
            raise gr.Error(say("That run has no result."), print_exception=False)
        return job, self.runs.service.folder(job) / job.result["glb"]

    def _place(self, job: Job) -> Path:
        folder = self.cache / f"pictures-{job.id}"
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _picture(self, job: Job) -> np.ndarray | None:
        """Return a square picture of a run: its front view, or its photo while it goes on."""
        from PIL import Image

        from synchuman.serving.jobs import PHOTO

        folder = self.runs.service.folder(job)
        try:
            with Image.open(folder / (PHOTO if job.active else THUMBNAIL)) as image:
                picture = image.convert("RGB")
        except OSError:  # swept at this moment
            return None
        picture.thumbnail((240, 240))
        ground = Image.new("RGB", (240, 240), (255, 255, 255))
        ground.paste(picture, ((240 - picture.width) // 2, (240 - picture.height) // 2))
        return np.asarray(ground)


def _caption(say: Texts, job: Job, variant: str) -> str:
    if job.active:
        return say("going on")
    name = name_of(job.request.settings, variant) or "Own settings"
    return f"{time.strftime('%H:%M', time.localtime(job.created))} · {say(name)}"


def _address(path: Path) -> str:
    """Return the address at which Gradio gives out a file of its own folder."""
    return f"gradio_api/file={quote(str(path))}"
