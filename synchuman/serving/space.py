"""What a Hugging Face Space is told by its environment, as arguments of `serve`."""

from __future__ import annotations

from collections.abc import Mapping

SPACE_VARIABLE = "SPACE_ID"
VARIANT_VARIABLE = "SYNCHUMAN_VARIANT"  # a variable of the Space, set in its settings
ACCELERATOR_VARIABLE = "ACCELERATOR"
NO_CARD_OF_ITS_OWN = ("none", "cpu-", "zero-")  # how the names of such hardware begin; ZeroGPU lends one
PORT = "7860"  # where a Gradio Space is looked for


def in_space(environment: Mapping[str, str]) -> bool:
    """Tell whether this is a Space."""
    return SPACE_VARIABLE in environment


def space_variant(environment: Mapping[str, str]) -> str:
    """Return the weights: those of the Space's variable, else the published ones on a GPU of its own."""
    hardware = environment.get(ACCELERATOR_VARIABLE) or "none"
    official = not hardware.startswith(NO_CARD_OF_ITS_OWN)
    return environment.get(VARIANT_VARIABLE) or ("official" if official else "mini")


def space_arguments(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments: open to everybody, as a Space is."""
    arguments = ["--host", "0.0.0.0", "--port", PORT, "--allow-public"]
    return [*arguments, "--variant", space_variant(environment)]
