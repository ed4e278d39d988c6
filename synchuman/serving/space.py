"""What a Hugging Face Space is told by its environment, as arguments of `serve`."""

from __future__ import annotations

from collections.abc import Mapping

SPACE_VARIABLE = "SPACE_ID"
VARIANT_VARIABLE = "SYNCHUMAN_VARIANT"  # a variable of the Space, set in its settings
PORT = "7860"  # where a Gradio Space is looked for


def in_space(environment: Mapping[str, str]) -> bool:
    """Tell whether this is a Space."""
    return SPACE_VARIABLE in environment


def space_arguments(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments: open to everybody, as a Space is; weights as its variable says, else mini."""
    arguments = ["--host", "0.0.0.0", "--port", PORT, "--allow-public"]
    return [*arguments, "--variant", environment.get(VARIANT_VARIABLE) or "mini"]
