"""Networks against golden tensors of the reference in float32, and half precision against own float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from published import draw, voxels
from stage1_golden import Golden, fill, published_names, published_weight
from stage2_golden import Golden as Golden2
from stage2_golden import fill as fill2
from torch import Tensor, nn

from synchuman.image_encoder import ImageEncoderConfig, build_image_encoder, encode_tokens
from synchuman.nn.arrange import arrange
from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.nn.transformer import ModulatedBlock
from synchuman.stage1.config import Stage1Config, StructureDecoderConfig
from synchuman.stage1.multiview_transformer import MultiviewTransformer
from synchuman.stage1.networks import Networks
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.stage1.sync import SyncToStructure, SyncToViews
from synchuman.stage2.config import (
    DecoderTrunkConfig,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    Stage2Config,
    ViewTokensConfig,
)
from synchuman.stage2.decoder_trunk import DecoderTrunk
from synchuman.stage2.gaussian_decoder import GaussianDecoder
from synchuman.stage2.mesh_decoder import MeshDecoder
from synchuman.stage2.networks import Stage2Networks, cast_torso
from synchuman.stage2.slat_flow import SlatFlow
from synchuman.stage2.view_tokens import ViewTokens

Errors = dict[str, float]
WHOLE = ("unet_thin", "unet_full")  # goldens of the whole joint network


def _multiview(device: torch.device, name: str, batch: int, rows: int) -> Errors:
    golden = Golden(f"mv_transformer_{name}")
    network = MultiviewTransformer(32, heads=4, prompt_width=24, norm_groups=32)
    prefix = "down_blocks.0.attentions.0."
    fill(network, published_names(prefix, prefix), golden.meta["weights_check"])
    _place(network, device)
    maps = golden.input("hidden_states", batch, 32, rows, rows).to(device)
    prompts = golden.input("encoder_hidden_states", batch, 7, 24).to(device)
    return _errors(golden, {"out.hidden_states": network(maps, network.project(prompts))})


def _sync(device: torch.device, to_structure: bool) -> Errors:
    golden = Golden("sync_2d_to_3d" if to_structure else "sync_3d_to_2d")
    kind, published = (SyncToStructure, "SS") if to_structure else (SyncToViews, "MV")
    network = kind(64, 32, grid=16, heads=2, head_width=16, norm_groups=32, kernel=3, mlp_ratio=4)
    ours = "to_structure.0." if to_structure else "to_views.0."
    names = published_names(f"dual_CrossAttblocks_{published}.0.", ours)
    fill(network, names, golden.meta["weights_check"])
    _place(network, device)
    name, side = ("MV", 24) if to_structure else ("MV", 12)
    out = network(
        golden.input(name, 20, 64, side, side).to(device), golden.input("structure", 2, 4096, 32).to(device)
    )
    return _errors(golden, {"out": out})


def _structure_block(device: torch.device) -> Errors:
    golden = Golden("structure_block")
    block = ModulatedBlock(64, 48, heads=4)
    fill(block, published_names("blocks.0.", "structure.blocks.0."), golden.meta["weights_check"])
    _place(block, device)
    x, time, context = (golden.tensors[key].to(device) for key in ("in.x", "out.t_emb", "in.context"))
    return _errors(golden, {"out.x": block(x, time, block.project(context))})


def _structure_decoder(device: torch.device) -> Errors:
    golden = Golden("structure_decoder")
    network = StructureDecoder(StructureDecoderConfig(channels=(24, 16, 8)))
    fill(network, published_names("", "", "structure_decoder"), golden.meta["weights_check"])
    _place(network, device)
    return _errors(golden, {"out.logits": network(golden.input("x", 1, 8, 16, 16, 16).to(device))})


def _joint(device: torch.device, name: str) -> Errors:
    from test_stage1_joint_golden import build, record

    golden = Golden(name)
    shapes = golden.meta["inputs"]
    network = build(golden)
    _place(network, device)
    taps = record(network)
    sample, prompts, labels, tokens, structure = (
        golden.input(key, *shapes[key]).to(device)
        for key in ("sample", "encoder_hidden_states", "class_labels", "trellis_cond", "trellis_x")
    )
    time = torch.tensor(golden.meta["timestep"], device=device)
    views, volume = network(sample, time, prompts, labels, structure, tokens)
    return _errors(golden, {"out.sample": views, "out.trellis": volume, **taps})


def _image_encoder(device: torch.device) -> Errors:
    from synchuman.weights import keymaps

    golden = Golden("dino_tiny")
    c = golden.meta["config"]
    model = build_image_encoder(
        ImageEncoderConfig(c["embed_dim"], c["depth"], c["num_heads"], c["patch_size"], c["img_size"])
    )
    state = {name: published_weight(name, shape) for name, shape in golden.meta["keys"].items()}
    model.load_state_dict(keymaps.dinov2(state), strict=True)
    _place(model, device)
    native, larger = (golden.tensors[f"in.{name}"].to(device) for name in ("native", "larger"))
    layers = model(larger, output_hidden_states=True).hidden_states
    picked = [model.layernorm(layers[layer + 1])[:, 1 + 4 :] for layer in golden.meta["layers"]]
    found = {"out.native.cond": encode_tokens(model, native), "out.larger.layers": torch.cat(picked, dim=-1)}
    return _errors(golden, found)


def _flow(device: torch.device, name: str) -> Errors:
    golden = Golden2(name)
    network = SlatFlow(SlatFlowConfig(width=64, condition_width=48, heads=4, blocks=3, io_widths=(32,)))
    fill2(network, "slat_flow", golden.meta["weights_check"])
    _place(network, device)
    time, condition = (golden.tensors[f"in.{key}"].to(device) for key in ("t", "cond"))
    return _errors(
        golden, {"out.feats": network(_latents(golden, device), time, network.project(condition)).feats}
    )


def _decoder(device: torch.device, mesh: bool) -> Errors:
    golden = Golden2("decoder_mesh" if mesh else "decoder_gs")
    network: MeshDecoder | GaussianDecoder
    if mesh:
        trunk = DecoderTrunkConfig(width=256, heads=4, blocks=3)
        network = MeshDecoder(MeshDecoderConfig(trunk, widths=(64, 32)), ViewTokensConfig())
    else:
        trunk = DecoderTrunkConfig(width=64, heads=4, blocks=3)
        network = GaussianDecoder(GaussianDecoderConfig(trunk), ViewTokensConfig())
    fill2(network, "slat_decoder_mesh" if mesh else "slat_decoder_gs", golden.meta["weights_check"])
    _place(network, device)
    shape = (1, 4, 64, 64, 4096)
    views = ViewTokens(
        golden.input("mv_color", *shape).to(device), golden.input("mv_normal", *shape).to(device)
    )
    slat = _latents(golden, device)
    if isinstance(network, MeshDecoder):
        return _errors(golden, {"out.feats": network(slat, views).feats})
    return _errors(golden, {"out.out_layer": network.decode(slat, views)})


def _latents(golden: Golden2, device: torch.device) -> SparseTensor:
    return SparseTensor(
        golden.tensors["in.feats"].to(device), Voxels.of(golden.tensors["in.coords"].int().to(device))
    )


def _place(network: nn.Module, device: torch.device) -> None:
    arrange(network.to(device).eval())


def _errors(golden: Golden, found: dict[str, Tensor]) -> Errors:
    """Largest difference over the reference tensor's largest magnitude, by key."""
    return {key: golden.error(key, value.cpu()) for key, value in found.items() if key in golden.tensors}


CASES: dict[str, tuple[float, Callable[[torch.device], Errors]]] = {
    "multiview transformer, 12 rows": (1e-5, lambda on: _multiview(on, "a", 20, 12)),
    "multiview transformer, 24 rows": (1e-5, lambda on: _multiview(on, "b", 10, 24)),
    "sync 2D to 3D": (1e-5, lambda on: _sync(on, True)),
    "sync 3D to 2D": (1e-5, lambda on: _sync(on, False)),
    "structure block": (1e-5, _structure_block),
    "structure decoder": (1e-5, _structure_decoder),
    "joint network, thin": (5e-5, lambda on: _joint(on, "unet_thin")),
    "image encoder": (1e-5, _image_encoder),
    "slat flow": (1e-5, lambda on: _flow(on, "slat_flow")),
    "slat flow, two samples": (1e-5, lambda on: _flow(on, "slat_flow_batch2")),
    "mesh decoder": (1e-5, lambda on: _decoder(on, True)),
    "gaussian decoder": (1e-5, lambda on: _decoder(on, False)),
}
FULL_CASES: dict[str, tuple[float, Callable[[torch.device], Errors]]] = {
    "joint network, published width": (1e-4, lambda on: _joint(on, "unet_full"))
}


def compare(full: Tensor, half: Tensor) -> dict[str, float]:
    """Relative L2 error and cosine similarity of a half precision result."""
    a, b = full.double().flatten(), half.double().flatten()
    return {"relative": float((a - b).norm() / a.norm()), "cosine": float(a @ b / a.norm() / b.norm())}


Case = tuple[nn.Module, Callable[[Any, Callable[[Tensor], Tensor]], Tensor]]


def precision_cases(
    first: Networks,
    config1: Stage1Config,
    second: Stage2Networks,
    config2: Stage2Config,
    device: torch.device,
) -> dict[str, Case]:
    """Networks in float32, each with a call of it; `cast` brings floating inputs to the network's type."""
    joint_config, tokens = config1.joint_network, 37 * 37 + 5
    latent, prompt = joint_config.latent_size, joint_config.prompt_width
    channels, side = joint_config.structure.channels, joint_config.structure.resolution
    sample = draw(20, joint_config.in_channels, latent, latent, device=device)
    prompts = draw(20, config1.prompt_length, prompt, device=device, seed=1)
    labels = None
    if joint_config.class_width is not None:
        labels = draw(20, joint_config.class_width, device=device, seed=2)
    condition = draw(2, tokens, joint_config.structure.condition_width, device=device, seed=3)
    volume = draw(2, channels, side, side, side, device=device, seed=4)
    time = torch.tensor(700.0, device=device)

    def run_joint(network: Any, cast: Callable[[Tensor], Tensor]) -> Tensor:
        arrange(network)
        label = None if labels is None else cast(labels)
        conditions = network.prepare(cast(prompts), label, cast(condition))
        views, structure = network.step(cast(sample), time, cast(volume), conditions)
        return torch.cat([views.float().flatten(), structure.float().flatten()])

    pixels = draw(1, 3, config1.image_size, config1.image_size, device=device, seed=5).clamp(-1, 1)
    encoder_pixels = draw(
        1, 3, config1.image_encoder.image_size, config1.image_encoder.image_size, device=device
    )
    image = draw(1, 4, latent, latent, device=device, seed=6)
    occupied = voxels(7_723, device)
    slat = draw(len(occupied), config2.flow.channels, device=device, seed=7)
    views = config2.views
    seen = [draw(1, 4, views.side, views.side, views.channels, device=device, seed=s) for s in (8, 9)]

    def run_flow(network: Any, cast: Callable[[Tensor], Tensor]) -> Tensor:
        projected = network.project(draw(1, tokens, config2.flow.condition_width, device=device, seed=3))
        return network(SparseTensor(slat, occupied), time.view(1), projected).feats

    cases: dict[str, Case] = {
        "joint network": (first.joint_network, run_joint),
        "image encoder": (first.image_encoder, lambda n, cast: encode_tokens(n, cast(encoder_pixels))),
        "image autoencoder, encode": (
            first.image_autoencoder, lambda n, cast: n.encode(cast(pixels)).latent_dist.mode()
        ),
        "image autoencoder, decode": (first.image_autoencoder, lambda n, cast: n.decode(cast(image)).sample),
        "slat flow": (second.slat_flow, run_flow),
        "mesh decoder": (
            second.mesh_decoder, lambda n, cast: n(SparseTensor(slat, occupied), ViewTokens(*seen)).feats
        ),
    }  # fmt: skip
    if first.structure_decoder is not None:
        cases["structure decoder"] = (first.structure_decoder, lambda n, cast: n(cast(volume[:1])))
    if first.clip is not None and config1.clip is not None:
        square = draw(2, 3, config1.clip.image_size, config1.clip.image_size, device=device)
        cases["CLIP"] = (first.clip, lambda n, cast: n(pixel_values=cast(square)).image_embeds)
    if second.gaussian_decoder is not None:
        cases["gaussian decoder"] = (
            second.gaussian_decoder, lambda n, cast: n.decode(SparseTensor(slat, occupied), ViewTokens(*seen))
        )  # fmt: skip
    return cases


def precision(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Compare a network in half precision with the same rounded weights in float32."""
    network, call = case
    half = _cast(copy.deepcopy(network), dtype)
    full = _cast(copy.deepcopy(half), torch.float32)
    expected = call(full, lambda x: x.float())
    del full
    return compare(expected, call(half, lambda x: x.to(dtype)))


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a network a number type as it runs: of Stage 2's, only the torsos change."""
    if isinstance(network, SlatFlow | DecoderTrunk):
        return cast_torso(network, dtype)
    return nn.Module.to(network, dtype=dtype)
