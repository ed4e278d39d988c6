"""The networks of a Stage 2 variant together: building, loading and saving them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from synchuman.configs import from_dict, to_dict
from synchuman.stage2.config import Stage2Config
from synchuman.stage2.decoder_trunk import DecoderTrunk
from synchuman.stage2.gaussian_decoder import GaussianDecoder
from synchuman.stage2.mesh_decoder import MeshDecoder
from synchuman.stage2.slat_flow import SlatFlow
from synchuman.weights.files import read_stages, write_stage, write_weights
from synchuman.weights.load import NetworkWeights, blank, fill
from synchuman.weights.published import PublishedFolder

STAGE = "stage2"  # in the variant's JSON


@dataclass
class Stage2Networks:
    """Everything of Stage 2 with weights; the image encoder is Stage 1's.

    Attributes:
        slat_flow: Noise to structured latents.
        mesh_decoder: Structured latents to the features of FlexiCubes.
        gaussian_decoder: Structured latents to gaussians; None for a variant without them.
    """

    slat_flow: SlatFlow
    mesh_decoder: MeshDecoder
    gaussian_decoder: GaussianDecoder | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Networks by the name of their file, without those that the variant lacks."""
        found: dict[str, nn.Module | None] = {
            "slat_flow": self.slat_flow,
            "mesh_decoder": self.mesh_decoder,
            "gaussian_decoder": self.gaussian_decoder,
        }
        return {name: module for name, module in found.items() if module is not None}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Stage2Networks:
        """Move everything, in evaluation mode; returns itself.

        The torsos get the dtype. The layers around them stay in float32, as the published weights run.
        """
        for module in (self.slat_flow, self.mesh_decoder, self.gaussian_decoder):
            if module is not None:
                cast_torso(module, dtype).to(device).eval()
        return self


def cast_torso(module: SlatFlow | DecoderTrunk, dtype: torch.dtype) -> SlatFlow | DecoderTrunk:
    """Give the torso a number type and the layers around it float32; returns the network.

    What has its type already is not copied.
    """
    torso = module.torso()
    for part in module.children():
        part.to(dtype if part in torso else torch.float32)
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, buffer.float())
    return module


def build_stage2(config: Stage2Config, seed: int = 0) -> Stage2Networks:
    """Build a variant with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gaussian = config.gaussian_decoder
        return Stage2Networks(
            slat_flow=SlatFlow(config.flow),
            mesh_decoder=MeshDecoder(config.mesh_decoder, config.views),
            gaussian_decoder=None if gaussian is None else GaussianDecoder(gaussian, config.views),
        )


def load_stage2_config(folder: Path) -> Stage2Config | None:
    """Read a variant's sizes, of a folder of ours or of a published checkpoint; None without Stage 2.

    Raises:
        FileNotFoundError: The folder holds no variant.
        ValueError: The file does not fit this version.
    """
    published = PublishedFolder.find(folder)
    if published is not None:
        from synchuman.stage2.published import read_config

        return read_config(published)
    sizes = read_stages(folder).get(STAGE)
    return None if sizes is None else from_dict(Stage2Config, sizes)


def blank_stage2(config: Stage2Config, dtype: torch.dtype) -> Stage2Networks:
    """Build a variant without memory for its weights; the torsos are to have that number type."""
    with blank():
        return build_stage2(config).to("meta", dtype)


def load_stage2(
    folder: Path,
    config: Stage2Config,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Stage2Networks:
    """Load a variant's weights, strictly, straight to a device and number type.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file does not hold the weights of its network.
    """
    networks = blank_stage2(config, dtype)
    published = PublishedFolder.find(folder)
    for name, module in networks.modules().items():
        own = NetworkWeights(folder / f"{name}.safetensors")
        fill(module, own if published is None else published.weights(name), device)
    return networks


def save_stage2(
    networks: Stage2Networks, config: Stage2Config, folder: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write Stage 2 into a variant's folder: safetensors per network, the sizes beside those of Stage 1."""
    for name, module in networks.modules().items():
        write_weights(module.state_dict(), folder / f"{name}.safetensors", dtype)
    # Last, because a variant that names a stage has all its files.
    write_stage(folder, STAGE, to_dict(config))
