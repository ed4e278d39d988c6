"""The variants of Stage 2 by size."""

from __future__ import annotations

from synchuman.stage2.config import (
    DecoderTrunkConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    SlatSamplerConfig,
    Stage2Config,
    ViewTokensConfig,
)

# The sizes of the published weights: the defaults of every config.
PUBLISHED = Stage2Config()

# Ours: one subdivision, to a grid of 128; no gaussians.
MINI = Stage2Config(
    flow=SlatFlowConfig(
        width=160, condition_width=192, heads=5, blocks=6, mlp_ratio=2.0, io_widths=(64,), io_blocks=2
    ),
    views=ViewTokensConfig(view_size=192, image_size=448, encoder_width=192, layers=(1, 3, 5)),
    mesh_decoder=MeshDecoderConfig(
        trunk=DecoderTrunkConfig(
            width=192, heads=6, blocks=4, mlp_ratio=2.0, view_width=48, view_hidden_ratio=1.5
        ),
        widths=(64,),
        norm_groups=16,
    ),
    gaussian_decoder=None,
    latents_at="surface",
    follow_normals=True,
    sampler=SlatSamplerConfig(steps=12, guidance=1.0),
)
