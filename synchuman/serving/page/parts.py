"""The components that the page's functions read and write, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr


@dataclass
class Parts:
    """All that changes. `touched`, `run_id`, `sure`, `asked`, `ids` and `kept` are not seen."""

    chip: gr.HTML
    photo: gr.Image
    file: gr.UploadButton
    samples: gr.Dataset
    people: gr.Image
    person: gr.Radio
    cutout: gr.Image
    cutout_note: gr.HTML
    touch_up: gr.Button
    editor_panel: gr.Column
    editor: gr.ImageEditor
    apply_touch: gr.Button
    reset_touch: gr.Button
    touched: gr.State
    preset: gr.Radio
    settings: list[Any]
    settings_button: gr.Button
    randomise: gr.Checkbox
    generate: gr.Button
    cancel: gr.Button
    status: gr.HTML
    run_id: gr.Textbox
    empty: gr.HTML
    look: gr.Radio
    model: gr.Model3D
    links: gr.HTML
    actions: gr.Row
    copy: gr.Button
    again: gr.Button
    delete: gr.Button
    sure: gr.Checkbox
    asked: gr.Number
    tabs: gr.Tabs
    kind: gr.Radio
    colors: gr.Gallery
    normals: gr.Gallery
    compare_tab: gr.Tab
    compare: gr.ImageSlider
    turntable_tab: gr.Tab
    turntable: gr.HTML
    texture_tab: gr.Tab
    new_faces: gr.Slider
    new_texture: gr.Slider
    retexture: gr.Button
    details_tab: gr.Tab
    numbers: gr.HTML
    files: gr.HTML
    runs_card: gr.Column
    runs: gr.Gallery
    ids: gr.State
    kept: gr.BrowserState
    abilities: gr.HTML
    timer: gr.Timer

    @property
    def later_tabs(self) -> list[gr.Tab]:
        """Those that show something only when a run is done."""
        return [self.compare_tab, self.turntable_tab, self.texture_tab, self.details_tab]

    @property
    def shown_by_run(self) -> list[Any]:
        """What a run writes to."""
        return [
            self.model, self.colors, self.normals, self.run_id, self.status, self.empty, self.look,
            self.links, self.actions, self.tabs, self.compare, self.turntable, self.numbers,
            self.files, self.cutout, self.generate, self.cancel, self.retexture, self.new_faces,
            self.new_texture, *self.later_tabs,
        ]  # fmt: skip
