"""A network's weights on disk: one file or several, read tensor by tensor to where they are wanted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LOGGER = logging.getLogger(__name__)

CURE = "Delete it and run `python -m synchuman weights pull`, or copy it again."
# Names that the libraries behind the published checkpoint give their weights, first choice first.
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
SAFE_ENDINGS = (".safetensors", ".fp16.safetensors", ".safetensors.index.json")
TORCH_ENDINGS = (".bin", ".pt", ".pth")


class WeightsError(ValueError):
    """A file of weights is damaged or another network's; the message names the file and the cure."""


def find_weights(folder: Path) -> Path:
    """Return the file of weights in a network's folder; an index when they are in several.

    Raises:
        FileNotFoundError: There is none; the message names the file that was expected, and the cure.
    """
    for endings in (SAFE_ENDINGS, TORCH_ENDINGS):
        for stem in STEMS:
            for ending in endings:
                path = folder / f"{stem}{ending}"
                if path.is_file():
                    return path
    raise FileNotFoundError(
        f"{folder} holds no weights: {STEMS[0]}.safetensors or {STEMS[1]}.safetensors is missing. "
        "Run `python -m synchuman weights pull`, or copy the file there."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: The file is missing; the message says the cure.
        WeightsError: It is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Run `python -m synchuman weights pull`, or copy it there."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error}). {CURE}") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is damaged: it holds no JSON object. {CURE}")
    return data


def parts_of(path: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint: itself, or those that an index names.

    Raises:
        FileNotFoundError: One is missing; the message names it.
        WeightsError: The index is damaged.
    """
    paths: tuple[Path, ...] = (path,)
    if path.name.endswith(".index.json"):
        names = read_json(path).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise WeightsError(f"{path} is damaged: it has no weight_map. {CURE}")
        # A name alone: an index must not reach out of its folder.
        paths = tuple(path.parent / Path(name).name for name in sorted(set(names.values())))
    for part in paths:
        if not part.is_file():
            raise FileNotFoundError(
                f"{part} is missing. Run `python -m synchuman weights pull`, or copy it there."
            )
    return paths


def check_structure(path: Path) -> int:
    """Check that a safetensors file is whole, by its header alone; return how many tensors it holds.

    Raises:
        WeightsError: It is cut off, or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return len(file.keys())
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise WeightsError(
            f"{path} is cut off or no safetensors file ({size:,} bytes; {error}). {CURE}"
        ) from None


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint, one at a time, on a device.

    On the CPU they are mapped from the file, without a copy. Files of torch itself (.bin, .pt) are only
    read as weights, which runs no code in them.

    Raises:
        FileNotFoundError: A file is missing.
        WeightsError: A file is cut off or no checkpoint.
    """
    for part in parts_of(path):
        if part.name.endswith(TORCH_ENDINGS):
            yield from _read_torch(part, device)
        else:
            check_structure(part)
            with ExitStack() as stack:
                # safetensors does not know "cpu:0".
                place = "cpu" if torch.device(device).type == "cpu" else str(device)
                file = stack.enter_context(safe_open(part, "pt", device=place))
                # In the order of the file, which a disk reads fastest.
                for name in file.offset_keys():
                    yield name, file.get_tensor(name)


def _read_torch(path: Path, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    LOGGER.warning("%s is no safetensors file; it is read as weights only", path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise WeightsError(f"{path} is no checkpoint of weights ({type(error).__name__}). {CURE}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} holds something else than tensors by name. {CURE}")
    for name, tensor in state.items():
        yield name, tensor.to(device)
