"""Which device and number type the networks run in when the user leaves it open."""

from __future__ import annotations

import torch

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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number type called `name`; "auto" is float16 on CUDA and float32 elsewhere.

    Raises:
        ValueError: The name is none of auto, float32, bfloat16, float16.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
