"""Where a step's time goes: by kind of layer, and by kernel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from timing import synchronize
from torch import Tensor, nn

from synchuman.nn.sparse_conv import SparseConv3d
from synchuman.nn.transformer import ModulatedBlock
from synchuman.stage1.config import JointNetworkConfig
from synchuman.stage1.joint_network import JointNetwork
from synchuman.stage1.layout import IMAGES_PER_GROUP
from synchuman.stage1.multiview_transformer import MultiviewBlock, MultiviewTransformer
from synchuman.stage1.sync import SyncToStructure, SyncToViews
from synchuman.stage1.unet_blocks import ResidualBlock
from synchuman.stage2.slat_flow import SlatFlow

ROWS = 45  # of the table of kernels


def parts_of(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Submodules by the name of what they do; inner ones count within outer ones too."""
    parts: dict[str, list[nn.Module]] = defaultdict(list)
    for name, module in network.named_modules():
        if isinstance(module, JointNetwork | SlatFlow):
            parts["network"].append(module)
        elif isinstance(module, MultiviewBlock):
            for part in ("attn1", "attn_mv", "attn2", "ff"):
                parts[f"  in it: {part}"].append(getattr(module, part))
        elif isinstance(module, MultiviewTransformer):
            parts["multiview transformers"].append(module)
        elif isinstance(module, ResidualBlock):
            parts["residual blocks"].append(module)
        elif isinstance(module, ModulatedBlock):
            parts["modulated transformer blocks"].append(module)
            for part in ("self_attn", "cross_attn", "mlp"):
                parts[f"  in them: {part}"].append(getattr(module, part))
        elif isinstance(module, SyncToStructure | SyncToViews):
            parts["sync modules"].append(module)
        elif isinstance(module, SparseConv3d):
            parts["sparse convolutions"].append(module)
        elif name.endswith(("samplers.0", "conv_in", "conv_out")):
            parts["other convolutions"].append(module)
    return parts


def time_parts(network: nn.Module, call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Milliseconds of a call by kind of layer; the device is waited for around each, so the sum is high."""
    spent: dict[str, float] = defaultdict(float)
    started: dict[nn.Module, float] = {}
    handles = []
    for name, modules in parts_of(network).items():
        for module in modules:

            def start(layer: nn.Module, _inputs: Any) -> None:
                synchronize(device)
                started[layer] = time.perf_counter()

            def stop(layer: nn.Module, _inputs: Any, _output: Any, name: str = name) -> None:
                synchronize(device)
                spent[name] += 1000 * (time.perf_counter() - started[layer])

            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    call()
    spent.clear()
    call()
    for handle in handles:
        handle.remove()
    return dict(spent)


# Operations by what they are, as torch names them.
KINDS = {
    "attention": ("attention",),
    "convolutions": ("convolution",),
    "products": ("addmm", "aten.mm", "aten::mm", "bmm"),
}


def kind_of(operation: str) -> str | None:
    """Return the kind of an operation; None for one of the small ones."""
    return next((kind for kind, names in KINDS.items() if any(n in operation for n in names)), None)


@torch.no_grad()
def step_operations(config: JointNetworkConfig, prompt_tokens: int, tokens: int) -> dict[str, float]:
    """Count the floating-point operations of a guided Stage 1 step by kind, in 10^12, on no device at all."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def product(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        counted["attention"] += sdpa_flop_count(q.shape, k.shape, v.shape)
        return torch.empty_like(q)

    counted: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    batch, side, flow = 2 * IMAGES_PER_GROUP, config.latent_size, config.structure
    with torch.device("meta"):
        network = JointNetwork(config)
        labels = None if config.class_width is None else torch.empty(batch, config.class_width)
        conditions = network.prepare(
            torch.empty(batch, prompt_tokens, config.prompt_width),
            labels,
            torch.empty(2, tokens, flow.condition_width),
        )
        sample = torch.empty(batch, config.in_channels, side, side)
        structure = torch.empty(2, flow.channels, *(flow.resolution,) * 3)
        with (
            mock.patch.object(nn.functional, "scaled_dot_product_attention", product),
            FlopCounterMode(display=False) as counter,
        ):
            network.step(sample, torch.empty(()), structure, conditions)
    for operation, count in counter.get_flop_counts()["Global"].items():
        counted[kind_of(str(operation)) or "products"] += count
    return {kind: count / 1e12 for kind, count in counted.items()}


def milliseconds_by_kind(recorded: Any) -> dict[str, float]:
    """Return the time of the kernels of each kind, and of all others."""
    spent: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        if event.key.startswith("aten::") and kind_of(event.key):
            spent[str(kind_of(event.key))] += event.self_device_time_total / 1000
        elif not event.key.startswith("aten::"):
            spent["all"] += event.self_device_time_total / 1000
    every = spent.pop("all", 0.0)
    return {**spent, "small kernels": every - sum(spent.values())}


def record(call: Callable[[], Any], device: torch.device) -> Any:
    """Profile a call."""
    from torch.profiler import ProfilerActivity, profile

    call()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        call()
        synchronize(device)
    return recorded


def kernels(recorded: Any, device: torch.device) -> str:
    """Return a table of the kernels of a recorded call by time."""
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=90)
