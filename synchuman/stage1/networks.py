"""The networks of a Stage 1 variant together: building, loading and saving them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from synchuman.configs import from_dict, to_dict
from synchuman.image_encoder import build_image_encoder
from synchuman.stage1.conditioning import build_clip
from synchuman.stage1.config import Stage1Config
from synchuman.stage1.image_autoencoder import build_image_autoencoder
from synchuman.stage1.joint_network import JointNetwork
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.weights import keymaps
from synchuman.weights.checkpoint import read_tensors
from synchuman.weights.files import CONFIG_FILE, read_stages, write_stage, write_weights
from synchuman.weights.load import NetworkWeights, blank, fill
from synchuman.weights.prompts import PROMPTS_FILE, PROMPTS_KEY
from synchuman.weights.published import PublishedFolder

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection, Dinov2WithRegistersModel

STAGE = "stage1"  # in the variant's JSON
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
            # Of torch, not of diffusers, which warns of what its autoencoder does not even have.
            nn.Module.to(module, device=device, dtype=dtype).eval()
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
    """Read a variant's sizes, of a folder of ours or of a published checkpoint.

    Raises:
        FileNotFoundError: The folder holds no variant.
        ValueError: The file does not fit this version.
    """
    published = PublishedFolder.find(folder)
    if published is not None:
        from synchuman.stage1.published import read_config

        return read_config(published)
    stages = read_stages(folder)
    if STAGE not in stages:
        raise ValueError(f"{CONFIG_FILE} in {folder} has no {STAGE!r}: it is not the sizes of a variant.")
    return from_dict(Stage1Config, stages[STAGE])


def blank_networks(config: Stage1Config, dtype: torch.dtype) -> Networks:
    """Build a variant without memory for its weights, which are to have that number type."""
    with blank():
        return build_networks(config).to("meta", dtype)


def load_networks(
    folder: Path,
    config: Stage1Config,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Networks:
    """Load a variant's weights, strictly, straight to a device and number type.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file does not hold the weights of its network.
    """
    networks = blank_networks(config, dtype)
    published = PublishedFolder.find(folder)
    for name, module in networks.modules().items():
        fill(module, find_network(folder, name) if published is None else published.weights(name), device)
    path = folder / PROMPTS_FILE if published is None else published.prompts
    prompts = dict(read_tensors(path)).get(PROMPTS_KEY)
    if prompts is None or prompts.shape != networks.view_prompts.shape:
        shape = None if prompts is None else list(prompts.shape)
        raise ValueError(f"{path} must hold prompts {list(networks.view_prompts.shape)}, not {shape}.")
    networks.view_prompts = prompts.to(device=device, dtype=dtype)
    return networks


def find_network(folder: Path, name: str) -> NetworkWeights:
    """Return where a variant of ours has the weights of a network; DINOv2 is under its public names."""
    path = folder / f"{name}.safetensors"
    return NetworkWeights(path, keymaps.encoder_names) if name == "image_encoder" else NetworkWeights(path)


def save_networks(networks: Networks, config: Stage1Config, folder: Path, dtype: torch.dtype) -> None:
    """Write Stage 1 of a variant: safetensors per network (DINOv2 under its public names), sizes as JSON."""
    for name, module in networks.modules().items():
        state = dict(module.state_dict())
        state = keymaps.to_dinov2(state) if name == "image_encoder" else state
        write_weights(state, folder / f"{name}.safetensors", dtype)
    write_weights({PROMPTS_KEY: networks.view_prompts}, folder / PROMPTS_FILE, dtype)
    write_stage(folder, STAGE, to_dict(config))
