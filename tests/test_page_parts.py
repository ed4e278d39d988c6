"""What stands behind the page: its texts, cards, controls and runs, sweeping, who is let in."""

from __future__ import annotations

import ast
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from synchuman import presets
from synchuman.events import Cancelled, Done, PhotoError, Progress
from synchuman.exports import FORMATS, NO_GAUSSIANS
from synchuman.photo.touchup import ERASE, KEEP, apply_strokes, canvas
from synchuman.serving import page
from synchuman.serving.auth import ANONYMOUS, LOCAL
from synchuman.serving.engine import NO_STAGE2
from synchuman.serving.exposure import Refused
from synchuman.serving.feed import Message
from synchuman.serving.jobs import Job, JobRequest, NotFound, State
from synchuman.serving.launch import ServeOptions, check, free_port, service_options
from synchuman.serving.page import capabilities, cards, controls, runs, texts
from synchuman.serving.page import shown as page_shown
from synchuman.serving.page.shown import Shown
from synchuman.serving.page.texts import GAP, Labels, Texts
from synchuman.serving.sweep import sweep
from synchuman.settings import Settings

TRANSLATED = {"say", "text", "_option", "heading", "Capability", "_in_all"}


def words_of_the_page() -> set[str]:
    """Collect the English texts in the page's code, and those it takes from the settings and elsewhere."""
    found = {
        text for field in Settings.model_fields.values() for text in (field.title, field.description) if text
    }
    found |= {*presets.NAMES, *cards.NAMES.values(), NO_GAUSSIANS}
    found |= {text for kind in FORMATS.values() for text in (kind.title, kind.text)}
    for file in Path(page.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if getattr(node.func, "id", getattr(node.func, "attr", "")) in TRANSLATED:
                parts = [part for argument in node.args for part in _choices(argument)]
                found |= {c.value for c in parts if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return {text for text in found if len(text) > 1}


def _choices(argument: ast.expr) -> list[ast.expr]:
    return [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]


@pytest.mark.parametrize("language", [name for name in texts.languages() if name != "en"])
def test_every_text_is_translated_with_the_same_gaps(language: str) -> None:
    words = texts._catalogue(language)
    missing = {text for text in words_of_the_page() if text not in words}
    assert missing == set()
    for english, translated in words.items():
        assert sorted(GAP.findall(english)) == sorted(GAP.findall(translated)), english
        assert translated.strip()
    assert len(texts.languages()) >= 3


def test_sentences_with_numbers_are_translated() -> None:
    say = Texts("de")
    tall = "The person is only 70 pixels tall. Please use a larger photo, at best with 500 pixels or more."
    assert "nur 70 Pixel" in say.sentence(tall)
    assert say.sentence("Nobody knows this sentence.") == "Nobody knows this sentence."
    assert Texts("tlh")("Generate") == "Generate"
    assert texts.choose("fr-FR,de;q=0.4,es;q=0.7") == "es"
    assert texts.choose("zh-TW") == "zh-CN" and texts.choose("") == "en" and texts.choose("de;q=x") == "en"


def test_labels_are_made_in_all_languages() -> None:
    labels = Labels()
    mark = labels.text("Generate")
    made = labels.translations().translations_dict
    assert made["de"][mark.key] == "Erzeugen" and made["en"][mark.key] == "Generate"
    assert made["zh"] == made["zh-CN"]


def test_every_setting_has_a_control_with_its_bounds() -> None:
    labels = Labels()
    for name, field in Settings.model_fields.items():
        control = controls.control(name, labels)
        assert control.value == field.default
        english = labels.translations().translations_dict["en"]
        assert english[control.label.key] == field.title and english[control.info.key] == field.description
    slider = controls.control("texture_size", labels)
    assert (slider.minimum, slider.maximum, slider.step) == (256, 4096, 256)


def test_controls_are_read_and_bounds_are_said() -> None:
    defaults = [float(v) if isinstance(v, int) else v for v in Settings().model_dump().values()]
    assert controls.read(defaults) == Settings()
    bad = dict(zip(controls.FIELDS, defaults)) | {"faces": 7}
    with pytest.raises(ValueError, match=r"Faces: .*1000"):
        controls.read(list(bad.values()))
    for variant in ("mini", "official"):
        for name in presets.NAMES:
            assert presets.name_of(presets.preset(name, variant, seed=1), variant) == name


def test_cards_escape_and_count() -> None:
    say = Texts()
    assert "<script>" not in cards.note("<script>", "error")
    card = cards.progress(say, Progress("stage 1", 8, 16, 12.4))
    assert "step 8 of 16" in card and "about 12 s left" in card
    assert "Fine surface" in card
    stages = ("cut-out", "stage 1", "surface", "atlas", "texture")
    coarse = cards.progress(Texts("de"), Progress("texture", 9, 9, 100.0, stages))
    assert "Fine surface" not in coarse and 'aria-valuenow="100"' in coarse and "noch etwa 2 min" in coarse


@pytest.mark.parametrize("has", [True, False])
def test_what_is_off_is_said_with_the_reason(has: bool) -> None:
    about = {"device": "cpu", "gpu": None, "stage2": has, "structure_decoder": has}
    engine = SimpleNamespace(status="ready", about=about, broken=None, loading=None)
    options = SimpleNamespace(variant="mini", image_url=False, webhooks=False, public=False, protected=has)
    service: Any = SimpleNamespace(workers=[SimpleNamespace(engine=engine)], options=options)
    rows = {row.name: row for row in capabilities.list_all(service)}
    assert rows["Fine surface (Stage 2)"].on is has and rows["Structure decoder"].on is has
    assert not rows["Graphics card"].on and "processor" in rows["Graphics card"].told(Texts())
    assert "--auth" in rows["Login"].told(Texts()) or has
    assert capabilities.state_of(service, Texts()) == ("Ready · mini · CPU", "ready")
    shown = cards.capabilities(Texts("es"), rows.values())
    assert shown.count("<li") == len(rows) and ("no tienen etapa 2" in shown) is not has
    engine.status, engine.loading = "starting", {"stage": "download", "step": 1200, "total": 9000}
    assert capabilities.state_of(service, Texts())[0] == "Downloading the weights: 1,200 of 9,000 MiB"
    engine.status, engine.broken, engine.loading = "broken", "gone", None
    assert capabilities.state_of(service, Texts())[1] == "broken"


def test_strokes_keep_and_erase() -> None:
    image = np.full((40, 30, 3), 90, np.uint8)
    cutout = np.zeros((40, 30, 4), np.uint8)
    cutout[5:35, 5:25] = (10, 20, 30, 255)
    strokes = np.zeros((80, 60, 4), np.uint8)
    strokes[0:20] = (*bytes.fromhex(KEEP[1:]), 255)
    strokes[60:80] = (*bytes.fromhex(ERASE[1:]), 255)
    result = apply_strokes(image, cutout, strokes)
    assert (result[2, :, 3] == 255).all() and (result[2, 2, :3] == 90).all()
    assert (result[35:, :, 3] == 0).all() and (result[20] == cutout[20]).all()
    strokes[:] = (*bytes.fromhex(ERASE[1:]), 255)
    with pytest.raises(PhotoError, match="green"):
        apply_strokes(image, cutout, strokes)
    strokes[:] = (*bytes.fromhex(KEEP[1:]), 255)
    with pytest.raises(PhotoError, match="red"):
        apply_strokes(image, cutout, strokes)
    faded = canvas(image, cutout, 20)
    assert faded.shape == (20, 15, 3) and faded[0, 0, 0] > 180 and faded[10, 7, 0] == 90


class StubService:
    """As much of the service as the page's runs need: one job, whose events the test tells."""

    def __init__(self, folder: Path) -> None:
        self.job = Job("ann", JobRequest(settings=Settings()), time.time())
        self.messages: list[Message] = []
        self.there = folder
        self.workers: list[Any] = []
        self.admission = self.line = self
        self.stopped = threading.Event()

    def submit(self, *_: Any, **__: Any) -> tuple[Job, bool]:
        return self.job, True

    def follow_here(self, job: Job, tick: float) -> Iterator[Message | None]:
        yield from self.messages
        while not self.stopped.is_set():
            yield None

    def follow(self, job: Job) -> object | None:
        return None if self.stopped.is_set() else self

    def get(self, job_id: str) -> Job:
        if job_id != self.job.id:
            raise NotFound("There is no such job.")
        return self.job

    def cancel(self, job: Job) -> Job:
        self.job = replace(self.job, state=State.CANCELLED)
        self.stopped.set()
        return self.job

    def folder(self, job: Job) -> Path:
        return self.there

    def place(self, job: Job) -> dict[str, Any]:
        return {}


@pytest.fixture
def stub(tmp_path: Path) -> StubService:
    return StubService(tmp_path)


def test_a_session_stops_its_run(stub: StubService) -> None:
    here = runs.Runs(stub)  # type: ignore[arg-type]
    told = here.follow("session", stub.job)
    assert next(told) == runs.Started(stub.job) and next(told) == runs.Tick()
    assert here.goes_on("session") and here.cancel("session")
    with pytest.raises(Cancelled):
        list(told)
    assert not here.goes_on("session") and not here.cancel("session")


def test_a_run_that_nobody_watches_is_stopped_but_not_one_that_is_watched_again(
    stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LEFT_ALONE", 0.2)
    here = runs.Runs(stub)  # type: ignore[arg-type]
    first = here.follow("a", stub.job)
    next(first), next(first)
    first.close()  # type: ignore[attr-defined]
    second = here.open("b", "ann", stub.job.id)
    next(second), next(second)
    assert not stub.stopped.wait(0.5)
    second.close()  # type: ignore[attr-defined]
    assert stub.stopped.wait(5)


def test_the_run_that_was_asked_for_last_is_shown() -> None:
    shown = Shown()
    going, other = shown.take("page"), shown.take("other page")
    chosen = shown.take("page", 2000.0)
    late = shown.take("page", 1000.0)  # asked for before, overtaken on its way
    assert [shown.holds("page", turn) for turn in (going, chosen, late)] == [False, True, False]
    assert shown.holds("other page", other)
    again = shown.take("page")
    assert shown.holds("page", again) and not shown.holds("page", chosen)
    assert not shown.holds("page", shown.take("page", 1500.0)) and shown.holds("page", again)


def test_words_of_two_runs_do_not_mix() -> None:
    shown = Shown()
    first = shown.take("page")
    with shown.speaking("page", first) as heard:
        assert heard
        second = shown.take("page")
        said = threading.Event()

        def speak() -> None:
            with shown.speaking("page", second) as heard:
                if heard:
                    said.set()

        speaker = threading.Thread(target=speak)
        speaker.start()
        assert not said.wait(0.3)
    speaker.join()
    assert said.is_set()
    with shown.speaking("page", first) as heard:
        assert not heard


def test_sessions_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_shown, "MOST", 2)
    shown = Shown()
    turns = {name: shown.take(name) for name in ("a", "b", "c")}
    assert len(shown._last) == 2 and all(shown.holds(name, turn) for name, turn in turns.items())


def test_runs_are_their_owners_alone(stub: StubService) -> None:
    here = runs.Runs(stub)  # type: ignore[arg-type]
    assert here.find("ann", stub.job.id) is stub.job
    for who in ("bob", LOCAL, ANONYMOUS + "0123"):
        with pytest.raises(NotFound):
            here.find(who, stub.job.id)
        assert here.some(who, [stub.job.id]) == []
    assert here.some("ann", ["gone", stub.job.id]) == [stub.job]


def test_a_missing_stage_2_is_said_once(stub: StubService) -> None:
    result = {
        "glb": "SecondStage/output.glb", "seconds": {}, "faces": 1, "peak_memory": 1, "mode": "stage1_only",
        "warnings": ["These weights have no Stage 2: …"], "fallback": NO_STAGE2,
    }  # fmt: skip
    job = replace(stub.job, state=State.DONE, result=result)
    done = runs.Runs(stub)._ended(job, stub.there)  # type: ignore[arg-type]
    assert isinstance(done, Done) and len(done.warnings) == 1


def test_sweep_keeps_what_is_new(tmp_path: Path) -> None:
    for name, age in (("old", 5000), ("new", 0)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "photo.png"
        file.write_bytes(b"x")
        for path in (file, file.parent):
            os.utime(path, (time.time() - age,) * 2)
    assert sweep(tmp_path, 3600) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert sweep(tmp_path / "missing", 1) == 0


def test_strangers_are_kept_out() -> None:
    check(ServeOptions())
    check(ServeOptions(host="0.0.0.0", auth=(("u", "p"),)))
    check(ServeOptions(share=True, allow_public=True))
    for options in (ServeOptions(host="0.0.0.0"), ServeOptions(share=True)):
        with pytest.raises(Refused, match="--auth"):
            check(options)


def test_the_pages_options_become_the_services() -> None:
    local = service_options(ServeOptions(auth=(("u", "p"),), keep_hours=2))
    assert local.passwords == {"u": "p"} and local.limits.keep_seconds == 7200 and not local.public
    # Whoever comes through the public link is a stranger, wherever the server listens.
    assert service_options(ServeOptions(share=True)).public


def test_a_space_is_shown_in_a_frame_and_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/synchuman")
    space = service_options(ServeOptions(host="0.0.0.0", allow_public=True))
    assert space.frame_ancestors == ("https://huggingface.co",) and space.proxies == ("*",)


def test_the_first_free_port_is_found() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = free_port("127.0.0.1")
        assert port >= 7860


def test_nothing_on_the_page_moves_without_end():
    from synchuman.serving.page.layout import CSS

    # Without a graphics card a browser on the same machine takes a core for it: runs were twice as long.
    assert "infinite" not in CSS.read_text()
