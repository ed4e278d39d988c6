"""The networks of a Stage 1 variant together: building, loading and saving them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from synchuman.configs import from_dict, to_dict
from synchuman.image_encoder import build_image_encoder
from synchuman.stage1.conditioning import build_clip, build_image_autoencoder
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.joint_network import JointNetwork
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.weights import keymaps
from synchuman.weights.files import (
    CONFIG_FILE,
    load_weights,
    read_stages,
    read_weights,
    write_stage,
    write_weights,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection, Dinov2WithRegistersModel

STAGE = "stage1"  # in the variant's JSON
PROMPTS_FILE = "view_prompts.safetensors"
PROMPTS_KEY = "view_prompts"
NUM_PROMPTS = 7


@dataclass
class Networks:
    """Everything with weights.

    Attributes:
        joint_network: Denoises views and structure.
        structure_decoder: Structure latent to occupancy logits; None when the config has none.
        image_autoencoder: Images to latents and back; its `scaling_factor` counts.
        image_encoder: Photo to tokens for the structure branch.
        view_prompts: [2 domains (normal, colour), 7, tokens, width].
        clip: Photo to the class label's embedding; None for a variant without it.
    """

    joint_network: JointNetwork
    structure_decoder: StructureDecoder | None
    image_autoencoder: AutoencoderKL
    image_encoder: Dinov2WithRegistersModel
    view_prompts: Tensor
    clip: CLIPVisionModelWithProjection | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Networks by the name of their file, without those that the variant lacks."""
        found: dict[str, nn.Module | None] = {
            "joint_network": self.joint_network,
            "structure_decoder": self.structure_decoder,
            "image_autoencoder": self.image_autoencoder,
            "image_encoder": self.image_encoder,
            "clip": self.clip,
        }
        return {name: module for name, module in found.items() if module is not None}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Networks:
        """Move everything, in evaluation mode; returns itself."""
        for module in self.modules().values():
            module.to(device=device, dtype=dtype).eval()
        self.view_prompts = self.view_prompts.to(device=device, dtype=dtype)
        return self


def build_networks(config: Stage1Config, seed: int = 0) -> Networks:
    """Build a variant with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = config.structure_decoder
        prompts = torch.randn(2, NUM_PROMPTS, config.prompt_length, config.joint_network.prompt_width)
        return Networks(
            joint_network=JointNetwork(config.joint_network),
            structure_decoder=None if decoder is None else StructureDecoder(decoder),
            image_autoencoder=build_image_autoencoder(config.image_autoencoder),
            image_encoder=build_image_encoder(config.image_encoder),
            view_prompts=prompts,
            clip=None if config.clip is None else build_clip(config.clip),
        )


def load_config(folder: Path) -> Stage1Config:
    """Read a variant's sizes.

    Raises:
        FileNotFoundError: The folder holds no variant.
        ValueError: The file does not fit this version.
    """
    stages = read_stages(folder)
    if STAGE not in stages:
        raise ValueError(f"{CONFIG_FILE} in {folder} has no {STAGE!r}: it is not the sizes of a variant.")
    return from_dict(Stage1Config, stages[STAGE])


def load_networks(folder: Path, config: Stage1Config) -> Networks:
    """Load a variant's weights, strictly, on the CPU in float32.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file does not hold the weights of its network.
    """
    networks = build_networks(config)
    for name, module in networks.modules().items():
        path = folder / f"{name}.safetensors"
        state = read_weights(path)
        load_weights(module, keymaps.dinov2(state) if name == "image_encoder" else state, path)
    prompts = read_weights(folder / PROMPTS_FILE)[PROMPTS_KEY].float()
    if prompts.shape != networks.view_prompts.shape:
        raise ValueError(
            f"{PROMPTS_FILE} must hold {tuple(networks.view_prompts.shape)}, not {prompts.shape}."
        )
    networks.view_prompts = prompts
    return networks


def save_networks(networks: Networks, config: Stage1Config, folder: Path, dtype: torch.dtype) -> None:
    """Write Stage 1 of a variant: safetensors per network (DINOv2 under its public names), sizes as JSON."""
    for name, module in networks.modules().items():
        state = dict(module.state_dict())
        state = keymaps.to_dinov2(state) if name == "image_encoder" else state
        write_weights(state, folder / f"{name}.safetensors", dtype)
    write_weights({PROMPTS_KEY: networks.view_prompts}, folder / PROMPTS_FILE, dtype)
    write_stage(folder, STAGE, to_dict(config))
