"""The page: photo, cut-out, result, in one downward flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from synchuman.serving import cards, controls, handlers
from synchuman.serving.runner import Runs
from synchuman.settings import DEFAULT_PRESET, PRESETS

ASSETS = Path(__file__).resolve().parents[2] / "assets"
CSS = ASSETS / "app.css"
EXAMPLES = ASSETS / "examples"
# glTF's front is +z: seen from 90 degrees, level; far enough for 1.7 m to stand in the frame.
CAMERA = (90, 90, 2.6)
MODEL_HEIGHT = 600
MAX_AGE = 24 * 3600  # seconds that Gradio keeps its copies of uploads and results


@dataclass
class Parts:
    """The components that the handlers read and write."""

    photo: gr.Image
    file: gr.UploadButton
    cutout: gr.Image
    cutout_note: gr.HTML
    person: gr.Radio
    preset: gr.Radio
    settings: list[Any]
    randomise: gr.Checkbox
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    empty: gr.HTML
    model: gr.Model3D
    views: gr.Tabs
    colors: gr.Gallery
    normals: gr.Gallery
    glb: gr.DownloadButton
    archive: gr.DownloadButton
    numbers: gr.HTML

    @property
    def shown_by_run(self) -> list[Any]:
        """What a run writes to."""
        return [
            self.model, self.colors, self.normals, self.glb, self.archive, self.numbers, self.status,
            self.views, self.empty, self.cutout, self.generate, self.cancel,
        ]  # fmt: skip


def theme() -> gr.themes.Base:
    """Return the look: system fonts only, so that nothing is fetched from outside."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        block_title_padding="0",
        input_border_width="1px",
        input_border_width_dark="1px",
        checkbox_label_border_width="1px",
        checkbox_border_width="1px",
    )


def build_page(runner: Runs) -> gr.Blocks:
    """Build the page around a runner; launch it with `serving.launch`."""
    with gr.Blocks(title="SyncHuman Studio", analytics_enabled=False, delete_cache=(3600, MAX_AGE)) as page:
        gr.HTML(cards.HEADER)
        with gr.Row(elem_id="flow", equal_height=False):
            with gr.Column(scale=4, min_width=280):
                photo, file, samples = _photo_card()
                cutout = _cutout_card()
            with gr.Column(scale=6, min_width=280):
                result = _result_card()
        gr.HTML(cards.FOOTER)
        parts = Parts(photo=photo, file=file, **cutout, **result)
        _wire(parts, samples, runner)
    return page


def _photo_card() -> tuple[gr.Image, gr.UploadButton, gr.Dataset | None]:
    with gr.Column(elem_classes="card"):
        gr.HTML(cards.heading(1, "Photo", "One person, from head to feet, seen from the front."))
        photo = gr.Image(
            label="Photo", show_label=False, type="filepath", image_mode=None, height=320, elem_id="photo",
            sources=["upload", "clipboard", "webcam"], buttons=[], placeholder="Drop, paste or click",
        )  # fmt: skip
        # Gradio would open the file and fail at HEIC; our own decoding gets the bytes as they were sent.
        photo.preprocess = _path  # type: ignore[method-assign]
        file = gr.UploadButton(
            "HEIC from a phone", file_types=[".heic", ".heif"], size="sm", elem_id="heic", type="filepath"
        )
        images = sorted(p for p in EXAMPLES.glob("*") if p.suffix in (".jpg", ".png", ".webp"))
        samples = None
        if images:
            samples = gr.Dataset(
                components=[photo], samples=[[str(p)] for p in images], label="Or try one of these",
                layout="gallery", elem_id="examples",
            )  # fmt: skip
    return photo, file, samples


def _cutout_card() -> dict[str, Any]:
    with gr.Column(elem_classes="card"):
        gr.HTML(cards.heading(2, "Cut-out", "Check that the whole person is there, then generate."))
        cutout = gr.Image(
            label="Cut-out", show_label=False, format="png", image_mode="RGBA", interactive=False, height=320,
            buttons=["fullscreen"], visible=False, elem_id="cutout",
        )  # fmt: skip
        note = gr.HTML(cards.EMPTY_CUTOUT, elem_id="cutout-note")
        person = gr.Radio([], label="Which person?", type="value", visible=False, elem_id="person")
        preset = gr.Radio(
            list(PRESETS), value=DEFAULT_PRESET, label="Quality", elem_id="preset", elem_classes="segments"
        )
        start = PRESETS[DEFAULT_PRESET]
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            settings = [controls.control(name, start.get(name)) for name in controls.FIELDS]
            randomise = gr.Checkbox(False, label="New random seed for every run", elem_id="randomise")
        with gr.Row(elem_classes="actions"):
            generate = gr.Button(
                "Generate", variant="primary", size="lg", interactive=False, elem_id="generate"
            )
            cancel = gr.Button("Cancel", variant="secondary", size="lg", visible=False, elem_id="cancel")
    return {
        "cutout": cutout, "cutout_note": note, "person": person, "preset": preset, "settings": settings,
        "randomise": randomise, "generate": generate, "cancel": cancel,
    }  # fmt: skip


def _result_card() -> dict[str, Any]:
    with gr.Column(elem_classes="card"):
        gr.HTML(cards.heading(3, "Result", "The views fill while they are made; the model follows."))
        status = gr.HTML("", elem_id="status")
        empty = gr.HTML(cards.EMPTY_RESULT, elem_id="empty")
        # "hidden", not False: Gradio 6.31 draws nothing in a viewer that appears with its first model.
        model = gr.Model3D(
            label="Model", show_label=False, height=MODEL_HEIGHT, camera_position=CAMERA, interactive=False,
            clear_color=(0.0, 0.0, 0.0, 0.0), visible="hidden", elem_id="model",
        )  # fmt: skip
        with gr.Row(elem_classes="actions"):
            glb = gr.DownloadButton("Download GLB", variant="primary", visible=False, elem_id="download-glb")
            archive = gr.DownloadButton("Download views (ZIP)", visible=False, elem_id="download-views")
        with gr.Tabs(visible=False, elem_id="views") as views:
            with gr.Tab("Colour", render_children=True):
                colors = _gallery("colors")
            with gr.Tab("Normals", render_children=True):
                normals = _gallery("normals")
        numbers = gr.HTML("", visible=False, elem_id="numbers")
    return {
        "status": status, "empty": empty, "model": model, "glb": glb, "archive": archive, "views": views,
        "colors": colors, "normals": normals, "numbers": numbers,
    }  # fmt: skip


def _gallery(name: str) -> gr.Gallery:
    return gr.Gallery(
        label=name, show_label=False, format="png", columns=5, rows=1, height="auto", object_fit="contain",
        interactive=False, buttons=["download", "fullscreen"], elem_id=name, elem_classes="views",
    )  # fmt: skip


def _wire(parts: Parts, samples: gr.Dataset | None, runner: Runs) -> None:
    on = handlers.Handlers(runner, parts)
    matting = parts.settings[controls.FIELDS.index("matting")]
    seed = parts.settings[controls.FIELDS.index("seed")]
    cut: dict[str, Any] = {
        "inputs": [parts.photo, parts.person, matting],
        "outputs": [parts.cutout, parts.cutout_note, parts.person, parts.generate, parts.photo],
        "concurrency_limit": 2,
        "show_progress_on": [parts.cutout_note],
    }
    parts.photo.change(lambda: None, None, parts.person, api_visibility="private", queue=False).then(
        on.cut_out, api_name="cutout", **cut
    )
    parts.person.input(on.cut_out, api_visibility="private", **cut)
    matting.input(on.cut_out, api_visibility="private", **cut)
    parts.file.upload(handlers.to_viewable, parts.file, parts.photo, api_visibility="private")
    parts.preset.input(
        handlers.choose_preset, parts.preset, parts.settings, api_visibility="private", queue=False
    )
    for control in parts.settings:
        if control not in (matting, seed):
            control.input(lambda: None, None, parts.preset, api_visibility="private", queue=False)

    run: dict[str, Any] = {
        "fn": on.generate,
        "inputs": [parts.photo, parts.person, *parts.settings],
        "outputs": parts.shown_by_run,
        # The runner has its own lock on the device and its own line; Gradio's slot is free again too early.
        "concurrency_limit": None,
        "show_progress": "hidden",
    }
    roll = {"fn": handlers.choose_seed, "inputs": [parts.randomise, seed], "outputs": seed}
    parts.generate.click(**roll, api_visibility="private", queue=False).then(**run, api_name="generate")
    parts.cancel.click(on.cancel, None, [parts.cancel, parts.status], queue=False, api_name="cancel")
    if samples is not None:
        samples.click(lambda row: row[0], samples, parts.photo, api_visibility="private", queue=False).then(
            **roll, api_visibility="private", queue=False
        ).then(**run, api_visibility="private")


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path
