"""Which touch on the page calls which function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from synchuman.serving.page import browser, controls, on_photo
from synchuman.serving.page.on_photo import PhotoHandlers
from synchuman.serving.page.on_result import ResultHandlers
from synchuman.serving.page.on_run import RunHandlers
from synchuman.serving.page.parts import Parts
from synchuman.serving.page.runs import Runs

# Nothing of the page is an endpoint of the API or a tool of agents; those are in `serving.agents`.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUICK: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}


def wire(page: gr.Blocks, parts: Parts, runs: Runs, cache: Path) -> None:
    """Connect the parts of a page."""
    photos, going, results = (
        PhotoHandlers(runs, parts, cache),
        RunHandlers(runs, parts),
        ResultHandlers(runs, parts, cache),
    )
    matting = parts.settings[controls.FIELDS.index("matting")]
    seed = parts.settings[controls.FIELDS.index("seed")]
    _photo(parts, photos, matting)
    _settings(parts, photos, matting, seed)
    remembered = {
        "fn": results.remember,
        "inputs": [parts.run_id, parts.kept],
        "outputs": [parts.kept, parts.runs_card, parts.runs, parts.ids],
    }
    run: dict[str, Any] = {
        "fn": going.generate,
        "inputs": [parts.photo, parts.person, parts.touched, *parts.settings],
        "outputs": parts.shown_by_run,
        # The service has its own line and locks; Gradio's slot is free again too early.
        "concurrency_limit": None,
        "show_progress": "hidden",
    }
    opening = {**run, "fn": going.open, "inputs": [parts.run_id, parts.photo]}
    roll = {"fn": on_photo.choose_seed, "inputs": [parts.randomise, seed], "outputs": seed}

    parts.generate.click(**roll, **QUICK).then(**run, **PRIVATE).then(**remembered, **QUICK)
    parts.cancel.click(
        going.cancel,
        None,
        [parts.cancel, parts.status],
        **QUICK,
    )
    parts.samples.click(lambda row: row[0], parts.samples, parts.photo, **QUICK).then(**roll, **QUICK).then(
        **run, **PRIVATE
    ).then(**remembered, **QUICK)
    parts.again.click(
        results.take_over,
        parts.run_id,
        [parts.photo, parts.touched, parts.preset, *parts.settings],
        **QUICK,
    ).then(**roll, **QUICK).then(**run, **PRIVATE).then(**remembered, **QUICK)
    parts.retexture.click(
        **{**run, "fn": going.retexture, "inputs": [parts.run_id, parts.new_faces, parts.new_texture]},
        **PRIVATE,
    ).then(**remembered, **QUICK)
    # Each of several quick clicks counts, and the last one stays.
    chosen = {**run, "fn": going.choose, "inputs": [parts.ids, parts.photo, parts.asked]}
    parts.runs.select(**chosen, js=browser.WHEN, trigger_mode="multiple", **PRIVATE)
    parts.run_id.change(None, parts.run_id, parts.run_id, js=browser.ADDRESS, **QUICK)
    _result(parts, results)
    parts.delete.click(
        results.delete, [parts.run_id, parts.sure, parts.kept],
        [parts.run_id, parts.runs_card, parts.runs, parts.ids],
        js=browser.confirm_deletion(), **QUICK,
    ).then(going.clear, parts.run_id, parts.shown_by_run, **QUICK)  # fmt: skip

    fresh = [parts.chip, parts.abilities, parts.timer, *_of_stage2(parts)]
    listed = [parts.runs_card, parts.runs, parts.ids]
    first = [parts.preset, parts.look, parts.kind, parts.run_id, *fresh, *listed]
    parts.timer.tick(results.refresh, None, fresh, **QUICK)
    page.load(None, None, None, js=browser.on_open(), **QUICK)
    page.load(results.opened, parts.kept, first, **QUICK).then(**opening, **PRIVATE)


def _photo(parts: Parts, photos: PhotoHandlers, matting: Any) -> None:
    cut: dict[str, Any] = {
        "inputs": [parts.photo, parts.person, matting],
        "outputs": [
            parts.cutout, parts.cutout_note, parts.person, parts.people, parts.generate, parts.photo,
            parts.touch_up, parts.editor_panel, parts.touched,
        ],
        "concurrency_limit": 2,
        "show_progress_on": [parts.cutout_note],
    }  # fmt: skip
    parts.photo.change(lambda: None, None, parts.person, **QUICK).then(photos.cut_out, **cut, **PRIVATE)
    parts.person.input(photos.cut_out, **cut, **PRIVATE)
    matting.input(photos.cut_out, **cut, **PRIVATE)
    parts.reset_touch.click(photos.cut_out, **cut, **PRIVATE)
    parts.file.upload(on_photo.to_viewable, parts.file, parts.photo, **PRIVATE)
    known = [parts.photo, parts.person, matting, parts.touched]
    parts.touch_up.click(
        photos.open_editor, known, [parts.editor_panel, parts.editor, parts.touch_up, parts.cutout],
        show_progress_on=[parts.cutout_note], **PRIVATE,
    )  # fmt: skip
    parts.apply_touch.click(
        photos.apply, [*known, parts.editor],
        [parts.touched, parts.cutout, parts.cutout_note, parts.editor_panel, parts.touch_up],
        show_progress_on=[parts.cutout_note], **PRIVATE,
    )  # fmt: skip


def _settings(parts: Parts, photos: PhotoHandlers, matting: Any, seed: Any) -> None:
    parts.settings_button.click(None, js=browser.FOLD, **QUICK)
    parts.preset.input(photos.choose_preset, parts.preset, parts.settings, **QUICK)
    for control in parts.settings:
        if control not in (matting, seed):
            control.input(lambda: None, None, parts.preset, **QUICK)


def _result(parts: Parts, results: ResultHandlers) -> None:
    parts.look.input(
        results.look, [parts.run_id, parts.look], parts.model, show_progress="minimal", **PRIVATE
    )
    parts.compare_tab.select(results.compare, [parts.run_id, parts.compare], parts.compare, **PRIVATE)
    parts.turntable_tab.select(results.before_turntable, parts.turntable, parts.turntable, **QUICK).then(
        results.turntable, [parts.run_id, parts.turntable], parts.turntable, **PRIVATE
    )
    parts.copy.click(None, js=browser.copy_link(), **QUICK)


def _of_stage2(parts: Parts) -> list[Any]:
    from synchuman.serving.page.capabilities import OF_STAGE2

    return [parts.settings[controls.FIELDS.index(name)] for name in OF_STAGE2]
