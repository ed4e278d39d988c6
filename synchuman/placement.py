"""Where the networks come from and run: folder, device and number type by the names users give."""

from __future__ import annotations

from pathlib import Path

import torch

from synchuman.weights.files import CONFIG_FILE

SHIPPED = Path(__file__).resolve().parents[1] / "assets"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA when there is one, else the CPU.

    Raises:
        ValueError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}; use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device that torch can use; use --device cpu.")
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 gains time; CPUs without matrix units for it (AMX) are ten times slower in it."""
    return device.type != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number type called `name`.

    "auto" is float16 on CUDA and float32 elsewhere, but bfloat16 on CPUs with matrix units for it (AMX):
    there `mini` samples a third quicker, with views that differ by 0.2 grey levels on average.

    Raises:
        ValueError: The name is none of auto, float32, bfloat16, float16.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        quick = device.type == "cpu" and computes_bfloat16(device)
        return torch.bfloat16 if quick else torch.float32
    if name not in DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def variant_folder(variant: str) -> Path:
    """Return the folder of the weights called `variant`: a name among the shipped ones, or a path.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    for folder in (SHIPPED / variant, Path(variant)):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise FileNotFoundError(
        f"There are no weights called {variant!r}: "
        f"neither a shipped variant (mini) nor a folder with {CONFIG_FILE}."
    )
