"""The page as it is laid out: photo, cut-out, result, earlier runs, what is on and off."""

from __future__ import annotations

from abc import ABCMeta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from synchuman.photo import touchup
from synchuman.presets import DEFAULT_PRESET, NAMES, Presets, presets_of
from synchuman.serving.page import browser, cards, controls
from synchuman.serving.page.files import ASSETS
from synchuman.serving.page.on_photo import EDITOR_SIDE
from synchuman.serving.page.on_result import KINDS, LOOKS
from synchuman.serving.page.parts import Parts
from synchuman.serving.page.texts import Labels
from synchuman.serving.page.wiring import wire

if TYPE_CHECKING:
    from synchuman.serving.page.runs import Runs

CSS = ASSETS / "app.css"
EXAMPLES = ASSETS / "examples"
# glTF's front is +z: seen from 90 degrees, level; far enough for 1.7 m to stand in the frame.
CAMERA = (90, 90, 2.4)
MODEL_HEIGHT = "min(620px, 74vh)"
MAX_AGE = 24 * 3600  # seconds that Gradio keeps its copies of uploads and results


def _path(field: gr.Image, payload: Any) -> str | None:
    return None if payload is None else payload.path


# An image field that hands the file over as it was sent: our own decoding knows HEIC, and what is wrong with
# a photo. A class, as Gradio makes components anew from theirs when an event writes to them; made in this
# way, as Gradio writes a stub file beside every module with a class statement of this kind.
PhotoField: Any = ABCMeta.__new__(
    type(gr.Image), "PhotoField", (gr.Image,), {"preprocess": _path, "is_template": True}
)


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
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        input_border_width="1px",
        input_border_width_dark="1px",
        checkbox_label_border_width="1px",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_600",
        checkbox_border_width="1px",
    )


def build_page(runs: Runs, cache: Path) -> tuple[gr.Blocks, gr.I18n]:
    """Build the page, and its static texts in all languages.

    Args:
        runs: What it runs photos with.
        cache: Gradio's folder for its copies, where the page keeps pictures, too.
    """
    labels = Labels()
    with gr.Blocks(title="SyncHuman Studio", analytics_enabled=False, delete_cache=(3600, MAX_AGE)) as page:
        with gr.Row(elem_id="top", equal_height=True):
            gr.HTML(labels.html(cards.header), scale=1)
            chip = gr.HTML("", elem_id="chip", min_width=0)
        with gr.Row(elem_id="flow", equal_height=False):
            with gr.Column(min_width=280):
                photo = _photo_card(labels)
            with gr.Column(min_width=280):
                cutout = _cutout_card(labels, presets_of(runs.service.options.variant))
            with gr.Column(min_width=280):
                result = _result_card(labels)
            with gr.Column(min_width=280):
                below = _below(labels)
        gr.HTML(labels.html(cards.footer))
        parts = Parts(
            chip=chip,
            touched=gr.State(None),
            ids=gr.State([]),
            sure=gr.Checkbox(label="Sure", visible="hidden"),
            asked=gr.Number(label="Asked", visible="hidden"),
            # Names of runs, no secrets: a stranger's run is open to who knows its name.
            kept=gr.BrowserState([], storage_key="synchuman-runs", secret="names of runs"),
            timer=gr.Timer(2.0),
            **photo,
            **cutout,
            **result,
            **below,
        )
        wire(page, parts, runs, cache)
    return page, labels.translations()


def _photo_card(labels: Labels) -> dict[str, Any]:
    with gr.Column(elem_classes="card"):
        gr.HTML(
            labels.html(
                lambda say: cards.heading(
                    say, "1", "Photo", "One person, from head to feet, seen from the front."
                )
            )
        )
        photo = PhotoField(
            label=labels.text("Photo"), show_label=False, type="filepath", image_mode=None, height=320,
            elem_id="photo", sources=["upload", "clipboard", "webcam"], buttons=[],
            placeholder=labels.text("Drop, paste or click"),
        )  # fmt: skip
        file = gr.UploadButton(
            labels.text("HEIC from a phone"), file_types=[".heic", ".heif"], size="sm", elem_id="heic",
            type="filepath",
        )  # fmt: skip
        images = sorted(p for p in EXAMPLES.glob("*") if p.suffix in (".jpg", ".png", ".webp"))
        samples = gr.Dataset(
            components=[photo], samples=[[str(p)] for p in images], layout="gallery", elem_id="examples",
            label=labels.text("Or click one of these: it starts at once"), visible=bool(images),
        )  # fmt: skip
    return {"photo": photo, "file": file, "samples": samples}


def _cutout_card(labels: Labels, presets: Presets) -> dict[str, Any]:
    with gr.Column(elem_classes="card"):
        gr.HTML(
            labels.html(
                lambda say: cards.heading(
                    say, "2", "Cut-out", "Check that the whole person is there, then generate."
                )
            )
        )
        people = gr.Image(
            label=labels.text("People in the photo"), show_label=False, format="png", interactive=False,
            buttons=[], visible=False, elem_id="people", height=240,
        )  # fmt: skip
        person = gr.Radio(
            [], label=labels.text("Which person?"), visible=False, elem_id="person", elem_classes="segments"
        )
        cutout = gr.Image(
            label=labels.text("Cut-out"), show_label=False, format="png", image_mode="RGBA",
            interactive=False, height=320, buttons=["fullscreen"], visible=False, elem_id="cutout",
        )  # fmt: skip
        note = gr.HTML(labels.html(cards.empty_cutout), elem_id="cutout-note")
        touch_up = gr.Button(labels.text("Touch up by hand"), size="sm", visible=False, elem_id="touch-up")
        with gr.Column(visible=False, elem_id="editor-panel") as panel:
            gr.HTML(labels.html(cards.touch_up_hint))
            brush = gr.Brush(
                default_size=22, colors=[touchup.KEEP, touchup.ERASE], default_color=touchup.ERASE,
                color_mode="fixed",
            )  # fmt: skip
            editor = gr.ImageEditor(
                label=labels.text("Paint over the photo"), show_label=False, type="numpy", format="png",
                sources=(), transforms=(), layers=False, brush=brush, buttons=[], elem_id="editor",
                canvas_size=(EDITOR_SIDE, EDITOR_SIDE), height=420, interactive=True,
            )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                apply = gr.Button(labels.text("Apply"), variant="primary", size="sm", elem_id="apply-touch")
                reset = gr.Button(labels.text("Undo all by hand"), size="sm", elem_id="reset-touch")
        preset = gr.Radio(
            list(NAMES), value=DEFAULT_PRESET, label=labels.text("Quality"), elem_id="preset",
            elem_classes="segments",
        )  # fmt: skip
        button = gr.Button(labels.text("Settings"), elem_id="settings-button", elem_classes="fold")
        # Not an accordion: Gradio mounts its content when it is opened, and what was typed at once is lost.
        with gr.Column(elem_id="settings"):
            start = presets[DEFAULT_PRESET]
            settings = [controls.control(name, labels, start.get(name)) for name in controls.FIELDS]
            randomise = gr.Checkbox(
                False, label=labels.text("New random seed for every run"), elem_id="randomise"
            )
        with gr.Row(elem_classes="actions"):
            generate = gr.Button(
                labels.text("Generate"), variant="primary", size="lg", interactive=False, elem_id="generate"
            )
    return {
        "people": people, "person": person, "cutout": cutout, "cutout_note": note, "touch_up": touch_up,
        "editor_panel": panel, "editor": editor, "apply_touch": apply, "reset_touch": reset, "preset": preset,
        "settings": settings, "settings_button": button, "randomise": randomise, "generate": generate,
    }  # fmt: skip


def _result_card(labels: Labels) -> dict[str, Any]:
    with gr.Column(elem_classes="card", elem_id="result"):
        gr.HTML(
            labels.html(
                lambda say: cards.heading(
                    say, "3", "Result", "The views fill while they are made; the model follows."
                )
            )
        )
        status = gr.HTML("", elem_id="status")
        cancel = gr.Button(labels.text("Cancel"), visible=False, elem_id="cancel")
        run_id = gr.Textbox("", label="Run", visible="hidden", elem_id="run-id")
        empty = gr.HTML(labels.html(cards.empty_result), elem_id="empty")
        look = gr.Radio(
            [(text, name) for name, text in LOOKS.items()], value="texture", label=labels.text("Look"),
            show_label=False, visible=False, interactive=True, elem_id="look",
            elem_classes="segments slim",
        )  # fmt: skip
        # Always there, and kept out of sight by the style sheet while it shows nothing: Gradio 6.31 draws
        # nothing in a viewer that appears with its first model.
        model = gr.Model3D(
            label=labels.text("Model"), show_label=False, height=MODEL_HEIGHT, camera_position=CAMERA,
            interactive=False, clear_color=(0.0, 0.0, 0.0, 0.0), elem_id="model",
        )  # fmt: skip
        links = gr.HTML("", visible=False, elem_id="links")
        with gr.Row(elem_classes="actions small", visible=False) as actions:
            copy = gr.Button(labels.text("Copy link"), size="sm", elem_id="copy-link")
            again = gr.Button(labels.text("Run again"), size="sm", elem_id="again")
            delete = gr.Button(labels.text("Delete"), size="sm", variant="stop", elem_id="delete")
        tabs = _tabs(labels)
    return {
        "status": status, "cancel": cancel, "run_id": run_id, "empty": empty, "look": look, "model": model,
        "links": links, "actions": actions, "copy": copy, "again": again, "delete": delete,
        **tabs,
    }  # fmt: skip


def _tabs(labels: Labels) -> dict[str, Any]:
    with gr.Tabs(visible=False, elem_id="views", selected="views") as tabs:
        with gr.Tab(labels.text("Views"), id="views", render_children=True):
            kind = gr.Radio(
                [(text, name) for name, text in KINDS.items()], value="colors", label=labels.text("Show"),
                show_label=False, interactive=True, elem_id="kind", elem_classes="segments slim",
            )  # fmt: skip
            colors, normals = _gallery(labels, "colors"), _gallery(labels, "normals")
        with gr.Tab(
            labels.text("Compare"), id="compare", interactive=False, render_children=True
        ) as compare_tab:
            compare = gr.ImageSlider(
                label=labels.text("Photo and model"), show_label=False, interactive=False, format="png",
                buttons=["fullscreen"], elem_id="compare", max_height=620,
            )  # fmt: skip
        with gr.Tab(
            labels.text("Turntable"), id="turntable", interactive=False, render_children=True
        ) as turn_tab:
            turntable = gr.HTML("", elem_id="turntable", js_on_load=browser.TURNTABLE)
        with gr.Tab(
            labels.text("Texture"), id="texture", interactive=False, render_children=True
        ) as texture_tab:
            gr.HTML(
                labels.html(
                    lambda say: cards.hint(
                        say("Make the model anew from the same views: seconds, not minutes.")
                    )
                )
            )
        with gr.Tab(
            labels.text("Details"), id="details", interactive=False, render_children=True
        ) as details_tab:
            numbers, files = gr.HTML("", elem_id="numbers"), gr.HTML("", elem_id="files")
    # Below the tabs and not in one, shown by the style sheet: what is typed into a control that has just been
    # mounted is lost.
    with gr.Column(elem_id="texture-panel"):
        faces = controls.control("faces", labels, elem_id="new-faces")
        size = controls.control("texture_size", labels, elem_id="new-texture")
        retexture = gr.Button(labels.text("Texture again"), variant="primary", elem_id="retexture")
    return {
        "tabs": tabs, "kind": kind, "colors": colors, "normals": normals, "compare_tab": compare_tab,
        "compare": compare, "turntable_tab": turn_tab, "turntable": turntable, "texture_tab": texture_tab,
        "new_faces": faces, "new_texture": size, "retexture": retexture, "details_tab": details_tab,
        "numbers": numbers, "files": files,
    }  # fmt: skip


def _below(labels: Labels) -> dict[str, Any]:
    with gr.Column(elem_classes="card", visible=False, elem_id="runs-card") as card:
        gr.HTML(labels.html(lambda say: cards.heading(say, "", "Your runs", "Click one to open it again.")))
        runs = gr.Gallery(
            label=labels.text("Your runs"), show_label=False, columns=8, height="auto", interactive=False,
            allow_preview=False, buttons=[], elem_id="runs", elem_classes="views", object_fit="contain",
            format="jpeg",
        )  # fmt: skip
    with gr.Accordion(labels.text("What is on here, what is off, and why"), open=False, elem_id="about"):
        abilities = gr.HTML("", elem_id="abilities")
    return {"runs_card": card, "runs": runs, "abilities": abilities}


def _gallery(labels: Labels, name: str) -> gr.Gallery:
    return gr.Gallery(
        label=labels.text(KINDS[name]), show_label=False, format="png", columns=5, rows=1, height="auto",
        object_fit="contain", interactive=False, buttons=["download", "fullscreen"], elem_id=name,
        elem_classes="views",
    )  # fmt: skip
