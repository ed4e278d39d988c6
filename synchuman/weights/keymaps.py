"""Published state-dict names and ours: a small table per network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Regular expression on the published name and its replacement; all that match apply, in order.
Renames = tuple[tuple[str, str], ...]

TRANSFORMER: Renames = (
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.mlp\.mlp\.", ".mlp."),
    (r"\.adaLN_modulation\.", ".modulation."),
)

JOINT_NETWORK: Renames = (
    *TRANSFORMER,
    (r"\.transformer_blocks\.0\.", ".block."),
    (r"^(blocks|t_embedder|input_layer|out_layer|pos_emb)\b", r"structure.\1"),
    (r"^dual_CrossAttblocks_SS\.", "to_structure."),
    (r"^dual_CrossAttblocks_MV\.", "to_views."),
    (r"\.cross_attn_MV_to_Structure\.", ".attention."),
    (r"\.cross_attn_Structure_to_normal\.", ".attentions.0."),
    (r"\.cross_attn_Structure_to_color\.", ".attentions.1."),
    (r"\.ffn_stucture\.", ".ff."),
    (r"\.ffn_no\.", ".ffs.0."),
    (r"\.ffn_clr\.", ".ffs.1."),
    (r"\.output_layer_stucture\.", ".structure_out."),
    (r"\.output_layer_no\.", ".map_outs.0."),
    (r"\.output_layer_clr\.", ".map_outs.1."),
    (r"\.input_layer_stucture\.", ".structure_in."),
    (r"\.input_layer_mv\.", ".map_in."),
    (r"\.imagedownsample\.conv\.", ".map_pool."),
    (r"\.voxeldownsample\.conv\.", ".voxel_conv."),
    (r"\.normStructure([12])\.", r".norm\1."),
)

STRUCTURE_DECODER: Renames = ()

# After the fused projections are cut in three, see `dinov2`.
DINOV2: Renames = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^register_tokens$", "embeddings.register_tokens"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
)


def rename(name: str, renames: Renames) -> str:
    """Return our name of a published name."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def rename_all(state: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """Return a state dict under our names.

    Raises:
        ValueError: Two published names fall together.
    """
    renamed = {rename(name, renames): tensor for name, tensor in state.items()}
    if len(renamed) != len(state):
        raise ValueError("Two published names became one; the rename table does not fit this checkpoint.")
    return renamed


def dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of public DINOv2 (with registers) into one of transformers' Dinov2WithRegistersModel."""
    cut: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), torch.chunk(tensor, 3), strict=True):
                cut[name.replace(".qkv.", f".{part}.")] = piece.clone()
        else:
            cut[name] = tensor
    return rename_all(cut, DINOV2)
