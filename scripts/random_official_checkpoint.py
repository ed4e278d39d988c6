"""Writes a checkpoint in the published layout with random weights, to measure and test without the real one.

    python scripts/random_official_checkpoint.py FOLDER            # published size, float16, about 8.5 GB
    python scripts/random_official_checkpoint.py FOLDER --small    # a few megabytes, same names and layout

The names and, at the published size, the shapes are those of the manifests in tests/fixtures. The weights
follow `synchuman.weights.random_rule`; the view prompts, which no network here makes, are random, too.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from synchuman.image_encoder import ImageEncoderConfig
from synchuman.stage1.config import (
    AutoencoderConfig,
    ClipConfig,
    JointNetworkConfig,
    Stage1Config,
    StructureDecoderConfig,
    StructureFlowConfig,
)
from synchuman.stage1.networks import NUM_PROMPTS, blank_networks
from synchuman.stage1.published import JOINT_MUST
from synchuman.stage2.config import (
    DecoderTrunkConfig,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    Stage2Config,
    ViewTokensConfig,
)
from synchuman.stage2.networks import blank_stage2
from synchuman.stage2.published import DECODER_MUST, FLOW_MUST
from synchuman.weights.keymaps import rename
from synchuman.weights.prompts import PROMPTS_FILE, PROMPTS_KEY
from synchuman.weights.published import ENCODER, FIRST, FOLDERS, SECOND
from synchuman.weights.random_rule import random_weight

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
# Networks by our names, and what the manifests call them; the others keep their names.
MANIFESTS = {
    "joint_network": "joint_network",
    "structure_decoder": "structure_decoder",
    "slat_flow": "slat_flow",
    "mesh_decoder": "slat_decoder_mesh",
    "gaussian_decoder": "slat_decoder_gs",
}
DIFFUSERS = ("joint_network", "image_autoencoder")  # libraries differ in how they call their files


@dataclass(frozen=True)
class Sizes:
    """Of both stages."""

    stage1: Stage1Config
    stage2: Stage2Config


PUBLISHED = Sizes(Stage1Config(), Stage2Config())
_TRUNK = DecoderTrunkConfig(width=256, heads=4, blocks=1)
SMALL = Sizes(
    Stage1Config(
        image_size=192,
        preview_interval=10,
        joint_network=JointNetworkConfig(
            latent_size=24,
            widths=(32, 64, 128, 128),
            heads=(1, 2, 4, 4),
            prompt_width=32,
            class_width=32,
            structure=StructureFlowConfig(width=32, heads=2, blocks=17, condition_width=32),
        ),
        structure_decoder=StructureDecoderConfig(channels=(16, 8, 4)),
        image_autoencoder=AutoencoderConfig(widths=(8, 16, 32, 32), norm_groups=8),
        image_encoder=ImageEncoderConfig(width=32, heads=2, image_size=28),
        clip=ClipConfig(width=32, hidden=64, depth=1, heads=2, image_size=28, projection=16),
    ),
    Stage2Config(
        flow=SlatFlowConfig(width=32, condition_width=32, heads=2, blocks=2, io_widths=(16,)),
        views=ViewTokensConfig(encoder_width=32),
        mesh_decoder=MeshDecoderConfig(trunk=_TRUNK, widths=(64, 32)),
        gaussian_decoder=GaussianDecoderConfig(trunk=_TRUNK),
    ),
)


def main() -> int:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="small sizes, for tests")
    options = parser.parse_args()
    write_checkpoint(options.folder, SMALL if options.small else PUBLISHED)
    return 0


def write_checkpoint(
    folder: Path, sizes: Sizes, change: Callable[[str, Tensor], Tensor] | None = None
) -> Path:
    """Write a checkpoint below a folder.

    Args:
        folder: Made when missing; gets `ckpts/OneStage`, `ckpts/SecondStage`, DINOv2 and the view prompts.
        sizes: Of all networks.
        change: Gives another weight for a name "network/published name"; None for the rule's.

    Returns:
        The folder.
    """
    root = folder / "ckpts"
    stage1, stage2 = blank_networks(sizes.stage1, torch.float16), blank_stage2(sizes.stage2, torch.float16)
    modules = {**stage1.modules(), **stage2.modules()}
    configs = published_configs(sizes)
    for network, module in modules.items():
        place = root / (ENCODER if network == "image_encoder" else FOLDERS[network][0])
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(configs[network], indent=2))
        state = {}
        for name, shape, buffer in published_tensors(network, module, sizes):
            weight = buffer if buffer is not None else random_weight(name, shape)
            weight = weight if change is None else change(f"{network}/{name}", weight)
            state[name] = weight.half().contiguous()
        stem = "diffusion_pytorch_model" if network in DIFFUSERS else "model"
        save_file(state, place / f"{stem}.safetensors")
    (root / SECOND / "pipeline.json").write_text(json.dumps(pipeline_config(sizes.stage2), indent=2))
    prompts = (2, NUM_PROMPTS, sizes.stage1.prompt_length, sizes.stage1.joint_network.prompt_width)
    weight = torch.randn(prompts, generator=torch.Generator().manual_seed(0)).half()
    save_file({PROMPTS_KEY: weight}, root / FIRST / PROMPTS_FILE)
    return folder


def published_tensors(
    network: str, module: nn.Module, sizes: Sizes
) -> list[tuple[str, tuple[int, ...], Tensor | None]]:
    """Return published name, shape and, for what is computed rather than trained, value of every tensor.

    Raises:
        ValueError: At the published size, a shape is not the manifest's.
    """
    names = {name: name for name in module.state_dict()}
    if network in MANIFESTS:
        shapes = manifest(MANIFESTS[network])
        names = {rename(published, FOLDERS[network][1]): published for published in shapes}
        if sizes is PUBLISHED:
            ours = {names[name]: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
            if ours != shapes:
                raise ValueError(f"{network} differs from its manifest.")
    elif network == "image_encoder":
        names = {name: hub_name(name) for name in names}
    buffers = computed(network, sizes)
    return [
        (names[name], tuple(tensor.shape), buffers.get(name)) for name, tensor in module.state_dict().items()
    ]


def computed(network: str, sizes: Sizes) -> dict[str, Tensor]:
    """Return the buffers of a network, which are computed when it is built; a shallow one has the same."""
    if network == "joint_network":
        joint = replace(
            sizes.stage1.joint_network,
            structure=replace(sizes.stage1.joint_network.structure, blocks=0, slices=(0, 0)),
        )
        from synchuman.stage1.structure_flow import StructureFlow

        return {f"structure.{name}": value for name, value in StructureFlow(joint.structure).named_buffers()}
    if network == "gaussian_decoder" and sizes.stage2.gaussian_decoder is not None:
        from synchuman.stage2.gaussian_decoder import GaussianDecoder

        shallow = replace(
            sizes.stage2.gaussian_decoder, trunk=replace(sizes.stage2.gaussian_decoder.trunk, blocks=0)
        )
        return dict(GaussianDecoder(shallow, sizes.stage2.views).named_buffers())
    return {}


def manifest(network: str) -> dict[str, tuple[int, ...]]:
    """Return published names and shapes of a network at the published size."""
    found: dict[str, Any] = {}
    for stage in ("stage1", "stage2"):
        found |= json.loads(gzip.decompress((FIXTURES / f"{stage}_manifests.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in found[network].items()}


def hub_name(name: str) -> str:
    """Return the name of a weight of DINOv2 in its repository on the hub."""
    for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        name = name.replace(f".attention.{ours}.", f".attention.attention.{theirs}.")
    return name.replace(".attention.o_proj.", ".attention.output.dense.")


def published_configs(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return every network's config.json."""
    joint, clip, encoder = sizes.stage1.joint_network, sizes.stage1.clip, sizes.stage1.image_encoder
    decoder, vae = sizes.stage1.structure_decoder, sizes.stage1.image_autoencoder
    flow, gaussians = sizes.stage2.flow, sizes.stage2.gaussian_decoder
    assert clip is not None and decoder is not None and gaussians is not None
    return {
        "joint_network": {
            **JOINT_MUST,
            "sample_size": joint.latent_size,
            "in_channels": joint.in_channels,
            "out_channels": joint.out_channels,
            "block_out_channels": joint.widths,
            "attention_head_dim": joint.heads,
            "down_block_types": ["CrossAttnDownBlockMV2D" if a else "DownBlock2D" for a in joint.attention],
            "layers_per_block": joint.layers,
            "norm_num_groups": joint.norm_groups,
            "cross_attention_dim": joint.prompt_width,
            "projection_class_embeddings_input_dim": joint.class_width,
            "trellis_in_channels": joint.structure.channels,
            "resolution": joint.structure.resolution,
            "patch_size": joint.structure.patch,
            "model_channels": joint.structure.width,
            "num_heads": joint.structure.heads,
            "num_blocks": joint.structure.blocks,
            "mlp_ratio": joint.structure.mlp_ratio,
            "cond_channels": joint.structure.condition_width,
        },
        "structure_decoder": named(
            "SparseStructureDecoder",
            latent_channels=decoder.latent_channels,
            out_channels=decoder.out_channels,
            channels=decoder.channels,
            num_res_blocks=decoder.res_blocks,
            num_res_blocks_middle=decoder.res_blocks_middle,
        ),
        "image_autoencoder": {
            "block_out_channels": vae.widths,
            "layers_per_block": vae.layers,
            "norm_num_groups": vae.norm_groups,
            "latent_channels": vae.latent_channels,
            "scaling_factor": vae.scaling,
        },
        "clip": {
            "hidden_act": "gelu",
            "hidden_size": clip.width,
            "intermediate_size": clip.hidden,
            "num_hidden_layers": clip.depth,
            "num_attention_heads": clip.heads,
            "patch_size": clip.patch,
            "image_size": clip.image_size,
            "projection_dim": clip.projection,
        },
        "image_encoder": {
            "hidden_act": "gelu",
            "hidden_size": encoder.width,
            "num_hidden_layers": encoder.depth,
            "num_attention_heads": encoder.heads,
            "patch_size": encoder.patch,
            "image_size": encoder.image_size,
            "num_register_tokens": encoder.registers,
            "mlp_ratio": encoder.mlp_ratio,
        },
        "slat_flow": named(
            "SLatFlowModel",
            **FLOW_MUST,
            resolution=flow.resolution,
            in_channels=flow.channels,
            model_channels=flow.width,
            cond_channels=flow.condition_width,
            num_heads=flow.heads,
            num_blocks=flow.blocks,
            mlp_ratio=flow.mlp_ratio,
            io_block_channels=flow.io_widths,
            num_io_res_blocks=flow.io_blocks,
        ),
        "mesh_decoder": named("SLatMeshDecoder", **trunk_config(sizes.stage2.mesh_decoder.trunk)),
        "gaussian_decoder": named(
            "SLatGaussianDecoder",
            **trunk_config(gaussians.trunk),
            representation_config={
                "num_gaussians": gaussians.per_voxel,
                "voxel_size": gaussians.reach,
                "3d_filter_kernel_size": gaussians.smallest_scale,
                "scaling_bias": gaussians.scale_bias,
                "opacity_bias": gaussians.opacity_bias,
                "lr": {"_rotation": gaussians.rotation_gain},
            },
        ),
    }


def trunk_config(trunk: DecoderTrunkConfig) -> dict[str, Any]:
    """Return what both decoders' configs have in common."""
    return {
        **DECODER_MUST,
        "resolution": trunk.resolution,
        "latent_channels": trunk.channels,
        "model_channels": trunk.width,
        "num_heads": trunk.heads,
        "num_blocks": trunk.blocks,
        "mlp_ratio": trunk.mlp_ratio,
        "window_size": trunk.window,
    }


def pipeline_config(config: Stage2Config) -> dict[str, Any]:
    """Return Stage 2's pipeline.json."""
    sampler = config.sampler
    params = {
        "steps": sampler.steps,
        "cfg_strength": sampler.guidance - 1,
        "cfg_interval": [sampler.guidance_from, sampler.guidance_to],
        "rescale_t": sampler.rescale,
    }
    normalisation = {"mean": config.normalisation.mean, "std": config.normalisation.std}
    return named("", slat_sampler={"params": params}, slat_normalization=normalisation)


def named(kind: str, **arguments: Any) -> dict[str, Any]:
    """Return a config of a constructor's name and arguments."""
    return {"name": kind, "args": arguments}


if __name__ == "__main__":
    raise SystemExit(main())
