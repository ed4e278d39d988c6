"""The variants of Stage 1 by size."""

from __future__ import annotations

from synchuman.stage1.config import (
    AutoencoderConfig,
    ImageEncoderConfig,
    JointNetworkConfig,
    JointSamplerConfig,
    Stage1Config,
    StructureDecoderConfig,
    StructureFlowConfig,
    SyncConfig,
)

# The sizes of the published weights: the defaults of every config.
PUBLISHED = Stage1Config()

MINI_STRUCTURE_DECODER = StructureDecoderConfig(channels=(64, 32, 16), res_blocks=1, res_blocks_middle=1)

# Ours: small enough to train in half an hour on one GPU and to run on two CPU cores.
MINI = Stage1Config(
    image_size=192,
    prompt_length=4,
    preview_interval=4,
    joint_network=JointNetworkConfig(
        latent_size=24,
        widths=(64, 128, 160),
        heads=(2, 4, 5),
        attention=(True, True, True),
        layers=1,
        norm_groups=16,
        prompt_width=128,
        class_width=None,
        structure=StructureFlowConfig(
            patch=2, width=192, heads=6, blocks=9, slices=(3, 6), mlp_ratio=2.0, condition_width=192
        ),
        sync=SyncConfig(
            heads=6, head_width=32, to_structure_after=0, to_views_after=1, kernel=1, mlp_ratio=2
        ),
    ),
    structure_decoder=MINI_STRUCTURE_DECODER,
    image_autoencoder=AutoencoderConfig(widths=(32, 64, 96, 96), layers=1, norm_groups=8),
    image_encoder=ImageEncoderConfig(width=192, depth=6, heads=6, image_size=224),
    clip=None,
    # Measured by bench/sampling.py: less noise gives poses nearer to the true ones, docs/training.md.
    sampler=JointSamplerConfig(structure_noise=0.3, structure_guidance=5.0),
    match_colors=True,
)

VARIANTS: dict[str, Stage1Config] = {"mini": MINI, "published": PUBLISHED}
