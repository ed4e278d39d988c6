"""What happens when a run is started, watched, stopped or opened again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
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
from synchuman.runfolder import RunFolderError
from synchuman.serving.auth import ANONYMOUS
from synchuman.serving.failures import explain
from synchuman.serving.jobs import ServiceError
from synchuman.serving.page import cards, controls, texts
from synchuman.serving.page.on_photo import fit, photo_bytes
from synchuman.serving.page.runs import Busy, Runs, Started, Told, Waiting
from synchuman.serving.page.shown import Shown, Turn
from synchuman.serving.page.texts import Texts
from synchuman.settings import Settings
from synchuman.views import VIEWS

if TYPE_CHECKING:
    from synchuman.serving.page.parts import Parts

LOGGER = logging.getLogger(__name__)

Update = dict[Any, Any]


class RunHandlers:
    """The functions that stream a run."""

    def __init__(self, runs: Runs, parts: Parts) -> None:
        """Serve one page."""
        self.runs = runs
        self.parts = parts
        self.shown = Shown()

    def generate(
        self,
        request: gr.Request,
        photo: str | None,
        person: int | None,
        touched: str | None,
        *values: Any,
    ) -> Iterator[Update]:
        """Make the model; streams progress, views, result. `values` are the settings in their order."""

        def begin() -> Iterator[Told]:
            if photo is None:
                raise PhotoError("Choose a photo first.")
            settings = controls.read(values)
            whom = person if touched is None else None
            data = photo_bytes(photo, touched)
            return self.runs.generate(session_of(request), who_is(request), data, settings, whom)

        # Together with the first word on the run: of updates that follow at once, Gradio's browser side loses
        # some.
        yield from self._stream(request, begin, {**self._cleared(), self.parts.run_id: ""})

    def retexture(self, request: gr.Request, run_id: str, faces: float, texture: float) -> Iterator[Update]:
        """Decimate and texture the shown run anew; streams like `generate`."""

        def begin() -> Iterator[Told]:
            who = who_is(request)
            settings = self.runs.find(who, run_id).request.settings
            values = {**settings.model_dump(), "faces": faces, "texture_size": texture}
            changed = controls.read([values[name] for name in controls.FIELDS])
            return self.runs.retexture(session_of(request), who, run_id, changed)

        yield from self._stream(request, begin, {})

    def choose(
        self, request: gr.Request, ids: list[str], photo: str | None, asked: float, event: gr.SelectData
    ) -> Iterator[Update]:
        """Open the run that was chosen among the earlier ones, also while one goes on.

        `asked` is the one of `Turn`.
        """
        run_id = ids[event.index] if event.index < len(ids) else None
        if self.runs.goes_on(session_of(request), besides=run_id):
            gr.Info(texts.of_request(request)("The run goes on. Its model is shown when it is done."))
        yield from self.open(request, run_id, photo, asked)

    def open(
        self, request: gr.Request, run_id: str | None, photo: str | None, asked: float | None = None
    ) -> Iterator[Update]:
        """Show a run again, or go on watching it; nothing without an id. The photo chosen now stays."""
        if not run_id:
            yield self._unchanged()
            return

        def begin() -> Iterator[Told]:
            return self.runs.open(session_of(request), who_is(request), str(run_id))

        # What is over comes in one piece, as in `generate`.
        together: Update | None = self._cleared()
        for update in self._stream(request, begin, asked=asked):
            update.pop(self.parts.cutout, None)
            if photo is None and self.parts.generate in update:
                update[self.parts.generate] = gr.update(interactive=False)
            if together is None:
                yield update or self._unchanged()
                continue
            together.update(update)
            if self.parts.cancel in together:  # it goes on, or this was its end
                yield together
                together = None
        if together is not None:  # another run was chosen meanwhile
            yield self._unchanged()

    def clear(self, request: gr.Request, run_id: str) -> Update:
        """Take a run off the page that was deleted; nothing while there is one."""
        if run_id:
            return self._unchanged()
        note = cards.note(texts.of_request(request)("Deleted."), "stopped")
        return {**self._cleared(), self.parts.status: note}

    def cancel(self, request: gr.Request) -> Update:
        """Ask this session's run to stop."""
        say = texts.of_request(request)
        if not self.runs.cancel(session_of(request)):
            return {self.parts.cancel: gr.update(interactive=False)}
        return {
            self.parts.cancel: gr.update(interactive=False, value=say("Stopping …")),
            self.parts.status: cards.note(say("Stopping after this step …"), "running"),
        }

    def _stream(
        self,
        request: gr.Request,
        begin: Callable[[], Iterator[Told]],
        first: Update | None = None,
        asked: float | None = None,
    ) -> Iterator[Update]:
        """Show what a run tells; with `first`, when it surely goes on, so that Cancel is there at once.

        Once the session shows another run, nothing more of this one is shown until it is done.
        """
        parts, say, session = self.parts, texts.of_request(request), session_of(request)
        turn = self.shown.take(session, asked)
        try:
            if first is not None:
                status = cards.progress(say, Progress("cut-out", 0, 1))
                yield {**first, **self._busy(say, True), parts.status: status}
            going = False
            for event in begin():
                going |= isinstance(event, Started) and event.job.active
                if self.shown.holds(session, turn):
                    update = self._show(say, session, event)
                elif going and isinstance(event, Done):
                    turn = self.shown.take(session)
                    update = self._whole(request, event.folder.name)
                else:
                    continue
                with self.shown.speaking(session, turn) as heard:
                    if heard and update:
                        yield update
            # Gradio sends what comes last twice, and a viewer that gets its first model twice shows none.
            yield self._unchanged()
        except Cancelled:
            text = say("Stopped. Photo and settings are still here.")
            yield self._ended(say, session, turn, cards.note(text, "stopped"))
        except Exception as error:
            sentence = say.sentence(_sentence(error))
            yield self._ended(say, session, turn, cards.note(sentence, "error"))
            # On a phone the card may be out of sight: this one pops up.
            raise gr.Error(sentence, print_exception=False) from error

    def _whole(self, request: gr.Request, job_id: str) -> Update:
        """Everything of a finished run, for a page that shows another one."""
        session, update = session_of(request), self._cleared()
        for event in self.runs.open(session, who_is(request), job_id):
            update |= self._show(texts.of_request(request), session, event)
        del update[self.parts.cutout]  # the photo chosen now stays
        return update

    def _ended(self, say: Texts, session: str, turn: Turn, note: str) -> Update:
        """A run ended without a model; another one that is shown stays."""
        held = self.shown.holds(session, turn)
        if not held and self.runs.goes_on(session):  # which took its place
            return self._unchanged()
        named = {self.parts.run_id: ""} if held else {}
        return {**self._busy(say, False), self.parts.status: note, **named}

    def _show(self, say: Texts, session: str, event: Told) -> Update:
        parts = self.parts
        match event:
            case Started(job=job):
                return {parts.run_id: job.id, **(self._busy(say, True) if job.active else {})}
            case Progress():
                return {parts.status: cards.progress(say, event)}
            case Waiting():
                return {parts.status: cards.waiting(say, event)}
            case CutoutReady():
                return {parts.cutout: gr.update(value=fit(event.image), visible=True)}
            case ViewsReady():
                return {
                    parts.tabs: gr.update(visible=True),
                    parts.empty: gr.update(visible=False),
                    parts.colors: _captioned(say, event.colors),
                    parts.normals: _captioned(say, event.normals),
                }
            case CoarseMeshReady():
                return {parts.model: str(event.path)}
            case Done():
                return self._done(say, session, event)
        return {}

    def _done(self, say: Texts, session: str, event: Done) -> Update:
        parts = self.parts
        job = self.runs.service.get(event.folder.name)
        settings: Settings = job.request.settings
        memory = self.runs.folder(job).read_record().get("peak_memory", {})
        files, offers = self.runs.service.files(job), self.runs.service.exporter.offers(job)
        links = cards.main_downloads(say, job, event) + cards.formats(say, job, offers)
        return {
            **self._busy(say, self.runs.goes_on(session, besides=job.id)),
            **{tab: gr.update(interactive=True) for tab in parts.later_tabs},
            parts.run_id: job.id,
            parts.status: cards.finished(say, event),
            parts.tabs: gr.update(visible=True),
            parts.empty: gr.update(visible=False),
            parts.look: gr.update(value="texture", visible=True),
            parts.model: str(event.glb),
            parts.links: gr.update(value=links, visible=True),
            parts.actions: gr.update(visible=True),
            parts.compare: None,
            parts.turntable: "",
            parts.new_faces: settings.faces,
            parts.new_texture: settings.texture_size,
            parts.numbers: cards.statistics(say, event, job, memory),
            parts.files: cards.all_files(say, job, files),
        }

    def _cleared(self) -> Update:
        """Take the run before off the page: what is shown is always one run's."""
        parts = self.parts
        return {
            parts.model: None,
            parts.empty: gr.update(visible=True),
            parts.look: gr.update(visible=False),
            parts.links: gr.update(visible=False),
            parts.actions: gr.update(visible=False),
            parts.tabs: gr.update(visible=False, selected="views"),
            **{tab: gr.update(interactive=False) for tab in parts.later_tabs},
            parts.colors: None,
            parts.normals: None,
        }

    def _unchanged(self) -> Update:
        # Gradio takes an empty update, or none, for one that empties everything.
        return {self.parts.status: gr.skip()}

    def _busy(self, say: Texts, busy: bool) -> Update:
        return {
            self.parts.generate: gr.update(interactive=not busy),
            self.parts.retexture: gr.update(interactive=not busy),
            self.parts.cancel: gr.update(interactive=busy, visible=busy, value=say("Cancel")),
        }


def who_is(request: gr.Request) -> str:
    """Return whose runs these are: the name that the service's guard let in."""
    return request.username or f"{ANONYMOUS}nobody"


def session_of(request: gr.Request) -> str:
    """Return the name of this visit; a call without one is a visit of its own."""
    return request.session_hash or uuid.uuid4().hex


def _captioned(say: Texts, images: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return stored views the way a camera would see them, each with its name."""
    shown = [image[:, ::-1] if view.mirrored else image for image, view in zip(images, VIEWS)]
    return [(np.ascontiguousarray(image), say(view.name.capitalize())) for image, view in zip(shown, VIEWS)]


def _sentence(error: Exception) -> str:
    if isinstance(error, PhotoError | Busy | ServiceError | RunFolderError | ValueError):
        return str(error)
    LOGGER.error("a run failed", exc_info=error)
    return explain(error)[1]
