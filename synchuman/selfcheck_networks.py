"""Every network of a variant alone, on a fixed input, loaded for that and let go again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synchuman.image_encoder import encode_tokens
from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.layout import IMAGES_PER_GROUP
from synchuman.stage1.networks import Networks, blank_networks, find_network, load_config
from synchuman.stage2.config import Stage2Config
from synchuman.stage2.networks import Stage2Networks, blank_stage2, load_stage2_config
from synchuman.stage2.view_tokens import ViewTokens
from synchuman.views import NUM_BODY_VIEWS
from synchuman.weights.load import fill
from synchuman.weights.published import PublishedFolder
from synchuman.weights.random_rule import random_input

Run = Callable[[torch.device, torch.dtype], Tensor]
TIME = 500.0


def network_runs(folder: Path) -> dict[str, Run]:
    """Return for every network of a variant the function that loads it, runs it and returns its output."""
    config, config2 = load_config(folder), load_stage2_config(folder)
    runs: dict[str, Run] = {}
    for name in blank_networks(config, torch.float16).modules():
        runs[name] = _runner(folder, name, lambda dtype: blank_networks(config, dtype), config, STAGE1[name])
    if config2 is not None:
        for name in blank_stage2(config2, torch.float16).modules():
            runs[name] = _runner(
                folder, name, lambda dtype: blank_stage2(config2, dtype), config2, STAGE2[name]
            )
    return runs


def _runner(
    folder: Path,
    name: str,
    build: Callable[[torch.dtype], Networks | Stage2Networks],
    config: Any,
    forward: Callable[[Any, Any, Callable[..., Tensor]], Tensor],
) -> Run:
    def run(device: torch.device, dtype: torch.dtype) -> Tensor:
        module = build(dtype).modules()[name]
        published = PublishedFolder.find(folder)
        fill(module, find_network(folder, name) if published is None else published.weights(name), device)

        def given(what: str, *shape: int, cast: torch.dtype | None = dtype) -> Tensor:
            return random_input(f"selfcheck.{name}.{what}", *shape).to(device, cast)

        return forward(module, config, given).float().cpu()

    return run


def _joint(module: Any, config: Stage1Config, given: Any) -> Tensor:
    joint = config.joint_network
    size, structure = joint.latent_size, joint.structure
    labels = None if joint.class_width is None else given("labels", IMAGES_PER_GROUP, joint.class_width)
    views, volume = module(
        given("views", IMAGES_PER_GROUP, joint.in_channels, size, size),
        torch.tensor(TIME, dtype=torch.float64, device=module.conv_in.weight.device),
        given("prompts", IMAGES_PER_GROUP, config.prompt_length, joint.prompt_width),
        labels,
        given("structure", 1, structure.channels, *(structure.resolution,) * 3),
        given("tokens", 1, 257, structure.condition_width),
    )
    return torch.cat([views.flatten(), volume.flatten()])


def _structure_decoder(module: Any, config: Stage1Config, given: Any) -> Tensor:
    structure = config.joint_network.structure
    return module(given("latent", 1, structure.channels, *(structure.resolution,) * 3))


def _autoencoder(module: Any, config: Stage1Config, given: Any) -> Tensor:
    image = given("image", 1, 3, 128, 128).clamp(-1, 1)
    latent = module.encode(image).latent_dist.mode()
    return torch.cat([latent.flatten(), module.decode(latent).sample.flatten()])


def _encoder(module: Any, config: Stage1Config, given: Any) -> Tensor:
    size = config.image_encoder.image_size
    return encode_tokens(module, given("image", 1, 3, size, size))


def _clip(module: Any, config: Stage1Config, given: Any) -> Tensor:
    assert config.clip is not None
    return module(pixel_values=given("image", 1, 3, *(config.clip.image_size,) * 2)).image_embeds


def _shell(side: int, device: torch.device) -> Voxels:
    """Return the voxels of a small sphere's shell."""
    axis = (torch.arange(side) + 0.5) / side - 0.5
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
    rows = ((distance > 0.1) & (distance < 0.115)).nonzero()
    return Voxels.of(nn.functional.pad(rows, (1, 0)).to(device), batch=1)


def _slat_flow(module: Any, config: Stage2Config, given: Any) -> Tensor:
    flow = config.flow
    voxels = _shell(flow.resolution, module.out_layer.weight.device)
    noise = given("noise", len(voxels), flow.channels, cast=torch.float32)
    condition = module.project(given("tokens", 1, 257, flow.condition_width))
    time = torch.tensor([TIME], device=noise.device)
    return module(SparseTensor(noise, voxels), time, condition).feats


def _decoder_inputs(module: Any, config: Stage2Config, given: Any) -> tuple[SparseTensor, ViewTokens]:
    views, flow = config.views, config.flow
    voxels = _shell(flow.resolution, module.out_layer.weight.device)
    slat = SparseTensor(given("slat", len(voxels), flow.channels, cast=torch.float32), voxels)
    shape = (1, NUM_BODY_VIEWS, views.side, views.side, views.channels)
    tokens = [given(name, *shape, cast=torch.float32) for name in ("color", "normal")]
    return slat, ViewTokens(*tokens)


def _mesh_decoder(module: Any, config: Stage2Config, given: Any) -> Tensor:
    return module(*_decoder_inputs(module, config, given)).feats


def _gaussian_decoder(module: Any, config: Stage2Config, given: Any) -> Tensor:
    return module.decode(*_decoder_inputs(module, config, given))


STAGE1: dict[str, Any] = {
    "joint_network": _joint,
    "structure_decoder": _structure_decoder,
    "image_autoencoder": _autoencoder,
    "image_encoder": _encoder,
    "clip": _clip,
}
STAGE2: dict[str, Any] = {
    "slat_flow": _slat_flow,
    "mesh_decoder": _mesh_decoder,
    "gaussian_decoder": _gaussian_decoder,
}
