"""Checks the published joint network, with weights by rule, against figures of the published code."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from synchuman.nn.embeddings import position_embedding
from synchuman.residency import free_memory
from synchuman.stage1.config import JointNetworkConfig
from synchuman.stage1.joint_network import JointNetwork
from synchuman.weights.keymaps import JOINT_NETWORK, rename
from synchuman.weights.load import blank
from synchuman.weights.random_rule import random_input, random_weight
from synchuman.weights.variants import SHIPPED

REFERENCE = SHIPPED / "official" / "reference.json.gz"
PREFIX = "s1_unet_full."  # of the inputs' names
# Largest difference over the largest magnitude in float32; relative L2 in 16 bits.
EXACT, HALF = 1e-4, {torch.float16: 2e-2, torch.bfloat16: 1e-1}

Found = tuple[str, bool | None, str]


def check_reference(device: torch.device, dtype: torch.dtype) -> list[Found]:
    """Run the network in float32 (without TF32) and in `dtype`; return name, verdict and words of each check.

    1.7 billion weights are drawn, which takes a minute, and need 7 GB of the device in float32. A CPU is left
    out: the tests cover it (`pytest -m huge`).
    """
    if device.type == "cpu":
        return [("published code", None, "made for a GPU: it takes a quarter of an hour and 18 GB on a CPU")]
    reference = json.loads(gzip.decompress(REFERENCE.read_bytes()))
    found: list[Found] = []
    for number in dict.fromkeys((torch.float32, dtype)):
        name = f"published code, {str(number).removeprefix('torch.')}"
        try:
            with exact_float32(), torch.inference_mode():
                views, structure = _run(reference, device, number)
        except (torch.OutOfMemoryError, MemoryError):
            found.append((name, None, "too little memory on the device"))
            free_memory(device)
            continue
        for part, got in (("views", views[:, :, ::3, ::3]), ("structure", structure)):
            found.append(_compare(f"{name}, {part}", got, reference[part], number))
        free_memory(device)
    return found


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32 in the block, on GPUs that would take fewer bits (TF32)."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def rule_network(names: list[str], device: torch.device, dtype: torch.dtype) -> JointNetwork:
    """Build the published joint network with weights by rule; `names` are the published ones."""
    with blank():
        network = JointNetwork(JointNetworkConfig()).to(dtype)
    published = {rename(name, JOINT_NETWORK): name for name in names}
    state = {
        name: random_weight(published[name], parameter.shape).to(device, dtype)
        for name, parameter in network.named_parameters()
    }
    structure = network.config.structure
    axis = torch.arange(structure.grid)
    state["structure.pos_emb"] = position_embedding(
        torch.cartesian_prod(axis, axis, axis), structure.width
    ).to(device, dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _run(reference: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    network = rule_network(reference["names"], device, dtype)
    sample, prompts, labels, structure, tokens = (
        random_input(PREFIX + name, *reference["inputs"][name]).to(device, dtype)
        for name in ("sample", "encoder_hidden_states", "class_labels", "trellis_x", "trellis_cond")
    )
    time = torch.tensor(reference["time"], dtype=torch.float64, device=device)
    views, volume = network(sample, time, prompts, labels, structure, tokens)
    return views.float().cpu(), volume.float().cpu()


def _compare(name: str, got: Tensor, wanted: dict[str, Any], dtype: torch.dtype) -> Found:
    values = got.reshape(-1)[:: wanted["every"]].double()
    expected = torch.tensor(wanted["values"], dtype=torch.float64)
    if values.shape != expected.shape:
        return name, False, f"{len(values)} values instead of {len(expected)}"
    if dtype is torch.float32:
        error, most = float((values - expected).abs().max()) / wanted["absmax"], EXACT
    else:
        error, most = float((values - expected).norm() / expected.norm()), HALF[dtype]
    return name, error <= most, f"differs by {error:.1e} (at most {most:.0e})"
