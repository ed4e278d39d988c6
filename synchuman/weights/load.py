"""Loads weights straight to their device and number type, strictly, without a second copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from synchuman.weights.checkpoint import WeightsError, read_tensors

# A published name to ours: none for what is not needed, several for a tensor that is cut along its rows.
Names = Callable[[str], tuple[str, ...]]
SHOWN = 4  # names in a message


def same(name: str) -> tuple[str, ...]:
    """Leave a name as it is."""
    return (name,)


@dataclass(frozen=True)
class NetworkWeights:
    """The weights of one network: `path` of its file or index, and how its names become ours."""

    path: Path
    names: Names = same


@contextmanager
def blank() -> Iterator[None]:
    """Build networks in this block without memory for their weights; `fill` gives them those.

    They get their precision first (`module.to(dtype)`): what is read is cast to it.
    """
    with torch.device("meta"):
        yield


def fill(module: nn.Module, weights: NetworkWeights, device: torch.device | str) -> None:
    """Give a blank network its weights on a device; nothing may be missing, left over or of another shape.

    Every tensor is cast to the number type that the blank network has for it. Where the file has that type
    already, weights on the CPU stay mapped from the file.

    Raises:
        FileNotFoundError: A file is missing.
        WeightsError: A file is damaged, or does not fit the network; the message names it.
    """
    expected = module.state_dict()
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    wrong: list[str] = []
    for published, tensor in read_tensors(weights.path, device):
        names = weights.names(published)
        pieces = torch.chunk(tensor, len(names)) if len(names) > 1 else (tensor,)
        for name, piece in zip(names, pieces):
            target = expected.get(name)
            if target is None:
                unexpected.append(published)
            elif target.shape != piece.shape:
                wrong.append(f"{published} is {list(piece.shape)}, not {list(target.shape)}")
            else:
                # Pieces of a larger tensor are copied, so that they do not keep the whole alive.
                found[name] = piece.to(target.dtype, copy=len(names) > 1)
    missing = sorted(set(expected) - set(found))
    problems = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise WeightsError(
            f"{weights.path} does not fit its network: {'; '.join(problems)}. "
            "It is another network's, or its sizes beside it are; copy or pull both again."
        )
    module.load_state_dict(found, strict=True, assign=True)
    _complete(module, device)


def count_bytes(module: nn.Module) -> int:
    """Return the bytes of a network's weights, also of a blank one."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _complete(module: nn.Module, device: torch.device | str) -> None:
    """Make what a checkpoint never holds: CLIP numbers the positions of its tokens."""
    for owner in module.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                if name != "position_ids":
                    raise RuntimeError(f"{type(owner).__name__}.{name} comes from no checkpoint.")
                count = buffer.shape[-1]
                owner.position_ids = torch.arange(count, device=device).expand(1, count)
