"""The sizes of Stage 2 of a published checkpoint, from the configs beside its weights."""

from __future__ import annotations

from typing import Any

from synchuman.stage1.published import require_same, take
from synchuman.stage2.config import (
    DecoderTrunkConfig,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    SlatNormalisation,
    SlatSamplerConfig,
    Stage2Config,
    ViewTokensConfig,
)
from synchuman.weights.checkpoint import WeightsError
from synchuman.weights.published import PublishedFolder

FLOW_MUST = {"pe_mode": "ape", "qk_rms_norm": True, "qk_rms_norm_cross": False, "share_mod": False}
DECODER_MUST = {
    "attn_mode": "swin",
    "mv_condition_mode": "4_view",
    "use_multiscale": True,
    "use_faceinfo": False,
}
# Widths of the mesh decoder's two subdivisions, as parts of the trunk's.
SUBDIVISION_PARTS = (4, 8)


def read_config(folder: PublishedFolder) -> Stage2Config | None:
    """Read the sizes; None where the checkpoint has no Stage 2.

    Raises:
        FileNotFoundError: A config is missing; the message names it and the cure.
        WeightsError: A config is damaged, or another network's.
    """
    if not folder.has_stage2:
        return None
    pipeline = folder.pipeline()
    return Stage2Config(
        flow=_flow(folder),
        views=ViewTokensConfig(encoder_width=folder.sizes("image_encoder")["hidden_size"]),
        mesh_decoder=_mesh(folder),
        gaussian_decoder=_gaussians(folder),
        normalisation=_normalisation(pipeline),
        sampler=_sampler(pipeline),
    )


def _flow(folder: PublishedFolder) -> SlatFlowConfig:
    sizes, where = folder.sizes("slat_flow"), str(folder.folder("slat_flow"))
    require_same(sizes, FLOW_MUST, where)
    names = {
        "resolution": "resolution",
        "channels": "in_channels",
        "width": "model_channels",
        "condition_width": "cond_channels",
        "heads": "num_heads",
        "blocks": "num_blocks",
        "mlp_ratio": "mlp_ratio",
        "io_widths": "io_block_channels",
        "io_blocks": "num_io_res_blocks",
    }
    return SlatFlowConfig(**take(sizes, names, where))


def _trunk(folder: PublishedFolder, network: str) -> tuple[DecoderTrunkConfig, dict[str, Any]]:
    sizes, where = folder.sizes(network), str(folder.folder(network))
    require_same(sizes, DECODER_MUST, where)
    names = {
        "resolution": "resolution",
        "channels": "latent_channels",
        "width": "model_channels",
        "heads": "num_heads",
        "blocks": "num_blocks",
        "mlp_ratio": "mlp_ratio",
        "window": "window_size",
    }
    return DecoderTrunkConfig(**take(sizes, names, where)), sizes.get("representation_config", {})


def _mesh(folder: PublishedFolder) -> MeshDecoderConfig:
    trunk, _ = _trunk(folder, "mesh_decoder")
    return MeshDecoderConfig(trunk=trunk, widths=tuple(trunk.width // part for part in SUBDIVISION_PARTS))


def _gaussians(folder: PublishedFolder) -> GaussianDecoderConfig:
    trunk, sizes = _trunk(folder, "gaussian_decoder")
    names = {
        "per_voxel": "num_gaussians",
        "reach": "voxel_size",
        "smallest_scale": "3d_filter_kernel_size",
        "scale_bias": "scaling_bias",
        "opacity_bias": "opacity_bias",
    }
    values = take(sizes, names, str(folder.folder("gaussian_decoder")))
    return GaussianDecoderConfig(trunk=trunk, rotation_gain=sizes["lr"]["_rotation"], **values)


def _normalisation(pipeline: dict[str, Any]) -> SlatNormalisation:
    try:
        values = pipeline["slat_normalization"]
        return SlatNormalisation(mean=tuple(values["mean"]), std=tuple(values["std"]))
    except (KeyError, TypeError):
        raise WeightsError("pipeline.json lacks slat_normalization; copy or pull it again.") from None


def _sampler(pipeline: dict[str, Any]) -> SlatSamplerConfig:
    try:
        params = pipeline["slat_sampler"]["params"]
        start, end = params["cfg_interval"]
        # Published as the strength beyond the conditional velocity; ours is 1 there.
        guidance = params["cfg_strength"] + 1.0
        return SlatSamplerConfig(params["steps"], params["rescale_t"], guidance, start, end)
    except (KeyError, TypeError, ValueError):
        raise WeightsError("pipeline.json lacks the slat_sampler's params; copy or pull it again.") from None
