"""Published state-dict names and ours: a small table per network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

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

# Names of the autoencoder's attention before diffusers 0.15, which some copies still have.
AUTOENCODER: Renames = (
    (r"(\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
)

# DINOv2 on the hub, and the names of transformers since 5.0.
DINOV2_HUB: Renames = (
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1_proj."),
    (r"\.query_proj\.", ".q_proj."),
    (r"\.key_proj\.", ".k_proj."),
    (r"\.value_proj\.", ".v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
# A buffer that older versions of transformers saved: it numbers the positions.
CLIP_COUNTER = "position_ids"

# Public DINOv2 names and those of transformers' Dinov2WithRegistersModel, starts and parts of names in pairs;
# besides, the fused attention projection is cut apart.
DINOV2: tuple[tuple[str, str], ...] = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
    ("blocks.", "encoder.layer."),
)
DINOV2_BLOCK: tuple[tuple[str, str], ...] = (
    (".attn.proj.", ".attention.o_proj."),
    (".ls1.gamma", ".layer_scale1.lambda1"),
    (".ls2.gamma", ".layer_scale2.lambda1"),
)
DINOV2_FUSED = ".attn.qkv."
DINOV2_PARTS = (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")


def rename(name: str, renames: Renames) -> str:
    """Return our name of a published name."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(renames: Renames) -> Callable[[str], tuple[str, ...]]:
    """Return the function from published names to ours that a table describes."""
    return lambda name: (rename(name, renames),)


def clip_names(name: str) -> tuple[str, ...]:
    """Return the name of a weight of CLIP's image encoder, none for what is no weight."""
    return () if name.endswith(CLIP_COUNTER) else (name,)


def encoder_names(name: str) -> tuple[str, ...]:
    """Return the names of a weight of DINOv2 with registers, from its public names or those on the hub."""
    if name.startswith(("embeddings.", "encoder.", "layernorm.")):
        return (rename(name, DINOV2_HUB),)
    name = _swap(name, DINOV2, DINOV2_BLOCK)
    if DINOV2_FUSED in name:
        return tuple(name.replace(DINOV2_FUSED, part) for part in DINOV2_PARTS)
    return (name,)


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
    """Turn a state dict of public DINOv2 with registers into transformers' Dinov2WithRegistersModel's."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        names = encoder_names(name)
        pieces = torch.chunk(tensor, len(names)) if len(names) > 1 else (tensor,)
        result.update((ours, piece.clone()) for ours, piece in zip(names, pieces, strict=True))
    return result


def to_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of Dinov2WithRegistersModel into public DINOv2's, the reverse of `dinov2`.

    Raises:
        KeyError: A block lacks one of its three attention projections.
    """
    starts = tuple((theirs, ours) for ours, theirs in DINOV2)
    parts = tuple((theirs, ours) for ours, theirs in DINOV2_BLOCK)
    first, *others = DINOV2_PARTS
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if first in name:
            fused = torch.cat([tensor, *(state[name.replace(first, other)] for other in others)])
            result[_swap(name.replace(first, DINOV2_FUSED), starts, parts)] = fused
        elif not any(other in name for other in others):
            result[_swap(name, starts, parts)] = tensor
    return result


def _swap(name: str, starts: tuple[tuple[str, str], ...], parts: tuple[tuple[str, str], ...]) -> str:
    for old, new in starts:
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    for old, new in parts:
        name = name.replace(old, new)
    return name
