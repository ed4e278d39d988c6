"""The page's controls for the settings, generated from the fields of `Settings`."""

from __future__ import annotations

import typing
from typing import Any

import gradio as gr
from annotated_types import Ge, Le, MultipleOf
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from synchuman.serving.page.texts import Labels
from synchuman.settings import Settings

FIELDS = tuple(Settings.model_fields)


def control(name: str, labels: Labels, value: Any = None, elem_id: str | None = None) -> Any:
    """Return the control of one field: a dropdown for choices, a number for the seed, else a slider.

    Args:
        name: Field of `Settings`.
        labels: Takes its texts up for translation.
        value: What it shows at first; None for the field's default.
        elem_id: Its id on the page; None for one made of the name.
    """
    field = Settings.model_fields[name]
    shown = field.default if value is None else value
    common: dict[str, Any] = {
        "label": labels.text(field.title or name),
        "info": labels.text(field.description or ""),
        "value": shown,
        "elem_id": elem_id or f"setting-{name}",
        "interactive": True,
    }
    if typing.get_origin(field.annotation) is typing.Literal:
        return gr.Dropdown(choices=list(typing.get_args(field.annotation)), **common)
    low, high, step = bounds(field)
    whole = field.annotation is int
    if name == "seed":
        return gr.Number(minimum=low, maximum=high, precision=0, **common)
    return gr.Slider(minimum=low, maximum=high, step=step or (1 if whole else 0.1), **common)


def read(values: typing.Sequence[Any]) -> Settings:
    """Return the settings that the controls show, in the order of FIELDS.

    Raises:
        ValueError: A value is out of bounds; the message names the setting and the bound.
    """
    data = dict(zip(FIELDS, values))
    for name, field in Settings.model_fields.items():
        # Sliders and numbers travel as JSON numbers: 16 may arrive as 16.0.
        if field.annotation is int and isinstance(data[name], float) and data[name].is_integer():
            data[name] = int(data[name])
    try:
        return Settings(**data)
    except ValidationError as error:
        first = error.errors()[0]
        title = Settings.model_fields[str(first["loc"][0])].title
        raise ValueError(f"{title}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None


def bounds(field: FieldInfo) -> tuple[float, float, float | None]:
    """Return the lowest and highest value of a numeric field, and the step between values if it has one."""
    rules = {type(rule): rule for rule in field.metadata}
    step = rules[MultipleOf].multiple_of if MultipleOf in rules else None
    return rules[Ge].ge, rules[Le].le, step
