"""Where a step's time goes: by kind of layer, and by kernel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from timing import synchronize
from torch import nn

from synchuman.nn.sparse_conv import SparseConv3d
from synchuman.nn.transformer import ModulatedBlock
from synchuman.stage1.joint_network import JointNetwork
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


def kernels(call: Callable[[], Any], device: torch.device) -> str:
    """Return a table of the kernels of a call by time."""
    from torch.profiler import ProfilerActivity, profile

    call()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        call()
        synchronize(device)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=90)
