"""A variant's folder: sizes of its stages in one JSON file, weights of every network in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG_FILE = "variant.json"


def read_stages(folder: Path) -> dict[str, Any]:
    """Read the sizes of all stages that a variant has, by their names.

    Raises:
        FileNotFoundError: The folder holds no variant.
        ValueError: The file is not JSON.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no variant: {CONFIG_FILE} is missing.")
    return json.loads(path.read_text())


def write_stage(folder: Path, stage: str, sizes: dict[str, Any]) -> None:
    """Write the sizes of one stage; those of the others stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_FILE
    stages = read_stages(folder) if path.is_file() else {}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**stages, stage: sizes}, indent=2) + "\n")
    partial.replace(path)


def write_weights(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write a state dict in a number type; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, partial)
    partial.replace(path)
