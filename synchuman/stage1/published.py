"""The sizes of Stage 1 of a published checkpoint, from the configs beside its weights."""

from __future__ import annotations

from typing import Any

from safetensors import safe_open

from synchuman.image_encoder import ImageEncoderConfig
from synchuman.stage1.config import (
    AutoencoderConfig,
    ClipConfig,
    JointNetworkConfig,
    Stage1Config,
    StructureDecoderConfig,
    StructureFlowConfig,
)
from synchuman.views import NUM_VIEWS
from synchuman.weights.checkpoint import WeightsError
from synchuman.weights.prompts import PROMPTS_KEY
from synchuman.weights.published import PublishedFolder

# What our joint network does in one way only. A config that says otherwise is another network's.
JOINT_MUST = {
    "num_views": NUM_VIEWS,
    "class_embed_type": "projection",
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "qk_rms_norm_cross": False,
    "share_mod": False,
    "use_linear_projection": True,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "transformer_layers_per_block": 1,
    "num_dual_CrossAttblocks": 2,
    "selfattn_block": "self_rowwise",
}


def read_config(folder: PublishedFolder) -> Stage1Config:
    """Read the sizes.

    Raises:
        FileNotFoundError: A config is missing; the message names it and the cure.
        WeightsError: A config is damaged, or another network's.
    """
    joint, autoencoder = _joint(folder), _autoencoder(folder)
    with safe_open(folder.prompts, "pt") as file:
        prompt_length = file.get_slice(PROMPTS_KEY).get_shape()[2]
    return Stage1Config(
        image_size=joint.latent_size * autoencoder.factor,
        prompt_length=prompt_length,
        joint_network=joint,
        structure_decoder=_structure_decoder(folder),
        image_autoencoder=autoencoder,
        image_encoder=_image_encoder(folder),
        clip=_clip(folder),
    )


def take(sizes: dict[str, Any], names: dict[str, str], where: str) -> dict[str, Any]:
    """Pick values by their published names (the table's values) and name them as ours (its keys).

    Raises:
        WeightsError: One is missing.
    """
    missing = sorted(set(names.values()) - set(sizes))
    if missing:
        raise WeightsError(f"config.json in {where} lacks {', '.join(missing)}; copy or pull it again.")
    values = {ours: sizes[published] for ours, published in names.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def require_same(sizes: dict[str, Any], must: dict[str, Any], where: str) -> None:
    """Raise WeightsError where a config says what our networks do not do."""
    for name, wanted in must.items():
        if sizes.get(name, wanted) != wanted:
            raise WeightsError(
                f"config.json in {where} says {name} = {sizes[name]!r}; this version only knows {wanted!r}. "
                "Is it the published SyncHuman checkpoint?"
            )


def _joint(folder: PublishedFolder) -> JointNetworkConfig:
    sizes, where = folder.sizes("joint_network"), str(folder.folder("joint_network"))
    require_same(sizes, JOINT_MUST, where)
    structure = take(
        sizes,
        {
            "channels": "trellis_in_channels",
            "resolution": "resolution",
            "patch": "patch_size",
            "width": "model_channels",
            "heads": "num_heads",
            "blocks": "num_blocks",
            "mlp_ratio": "mlp_ratio",
            "condition_width": "cond_channels",
        },
        where,
    )
    unet = take(
        sizes,
        {
            "latent_size": "sample_size",
            "in_channels": "in_channels",
            "out_channels": "out_channels",
            "widths": "block_out_channels",
            "heads": "attention_head_dim",
            "layers": "layers_per_block",
            "norm_groups": "norm_num_groups",
            "prompt_width": "cross_attention_dim",
            "class_width": "projection_class_embeddings_input_dim",
        },
        where,
    )
    attention = tuple("CrossAttn" in kind for kind in sizes.get("down_block_types", ()))
    return JointNetworkConfig(**unet, attention=attention, structure=StructureFlowConfig(**structure))


def _structure_decoder(folder: PublishedFolder) -> StructureDecoderConfig:
    names = {
        "latent_channels": "latent_channels",
        "out_channels": "out_channels",
        "channels": "channels",
        "res_blocks": "num_res_blocks",
        "res_blocks_middle": "num_res_blocks_middle",
    }
    where = str(folder.folder("structure_decoder"))
    return StructureDecoderConfig(**take(folder.sizes("structure_decoder"), names, where))


def _autoencoder(folder: PublishedFolder) -> AutoencoderConfig:
    names = {
        "widths": "block_out_channels",
        "layers": "layers_per_block",
        "norm_groups": "norm_num_groups",
        "latent_channels": "latent_channels",
        "scaling": "scaling_factor",
    }
    where = str(folder.folder("image_autoencoder"))
    return AutoencoderConfig(**take(folder.sizes("image_autoencoder"), names, where))


def _clip(folder: PublishedFolder) -> ClipConfig:
    sizes, where = folder.sizes("clip"), str(folder.folder("clip"))
    require_same(sizes, {"hidden_act": "gelu"}, where)
    names = {
        "width": "hidden_size",
        "hidden": "intermediate_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "patch": "patch_size",
        "image_size": "image_size",
        "projection": "projection_dim",
    }
    return ClipConfig(**take(sizes, names, where))


def _image_encoder(folder: PublishedFolder) -> ImageEncoderConfig:
    names = {
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "patch": "patch_size",
        "image_size": "image_size",
        "registers": "num_register_tokens",
        "mlp_ratio": "mlp_ratio",
    }
    sizes, where = folder.sizes("image_encoder"), str(folder.folder("image_encoder"))
    require_same(sizes, {"use_swiglu_ffn": False, "hidden_act": "gelu"}, where)
    return ImageEncoderConfig(**take(sizes, names, where))
