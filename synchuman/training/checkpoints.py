"""Checkpoints of a leg: its weights, their average, what the optimisers remember, steps and seconds."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synchuman.training.masters import Averaged, Masters, trained_parameters

LOGGER = logging.getLogger(__name__)


def save(
    module: nn.Module,
    masters: Masters,
    average: Averaged,
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
    step: int,
    seconds: float,
    config: dict[str, object],
) -> None:
    """Write a checkpoint; every file whole or not at all."""
    moments = {
        f"{number}.{i}.{key}": value.detach().cpu()
        for number, optimizer in enumerate(optimizers)
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    files = {
        "weights": {
            k: masters.values.get(k, v).detach().cpu().contiguous() for k, v in module.state_dict().items()
        },
        "average": {k: v.cpu() for k, v in average.values.items()},
        "optimizer": moments,
    }
    for name, tensors in files.items():
        partial = folder / f"{name}.partial"
        save_file(tensors, partial)
        partial.replace(folder / f"{name}.safetensors")
    partial = folder / "state.partial"
    partial.write_text(json.dumps({"step": step, "seconds": seconds, "config": config}))
    partial.replace(folder / "state.json")


def restore(
    module: nn.Module,
    masters: Masters,
    average: Averaged,
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
) -> tuple[int, float]:
    """Load a checkpoint; returns the steps and seconds of training in it."""
    if not (folder / "state.json").exists():
        return 0, 0.0
    if (folder / "weights.safetensors").exists():
        weights = load_file(folder / "weights.safetensors")
        module.load_state_dict(weights)
    else:  # only the average travels light
        load_average(module, folder)
        weights = load_file(folder / "average.safetensors")
    with torch.no_grad():
        for name, master in masters.values.items():
            master.copy_(weights[name])
        for name, value in load_file(folder / "average.safetensors").items():
            average.values[name].copy_(value)
    # The optimiser's moments may be left behind when a run moves between machines: then it warms up again.
    if (folder / "optimizer.safetensors").exists():
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for key, value in load_file(folder / "optimizer.safetensors").items():
            number, index, name = key.split(".", 2)
            states[int(number)].setdefault(int(index), {})[name] = value
        for optimizer, state in zip(optimizers, states, strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
    reached = json.loads((folder / "state.json").read_text())
    LOGGER.info("resuming at step %d", reached["step"])
    return int(reached["step"]), float(reached["seconds"])


def load_average(module: nn.Module, folder: Path) -> None:
    """Load the averaged weights of a finished leg into a module.

    Raises:
        FileNotFoundError: The leg was never run; the message names the folder.
    """
    path = folder / "average.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train that part first (see docs/training.md).")
    missing, unexpected = module.load_state_dict(load_file(path), strict=False)
    trained = trained_parameters(module)
    missing = [k for k in missing if k in trained]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
