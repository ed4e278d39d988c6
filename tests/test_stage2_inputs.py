"""Sampling and inputs of Stage 2 against golden values of the reference."""

import numpy as np
import pytest
import torch
from stage1_golden import Golden as Stage1Golden
from stage1_golden import published_weight
from stage2_golden import Golden
from torch.nn import functional as F

from synchuman.configs import from_dict, to_dict
from synchuman.image_encoder import ImageEncoderConfig, build_image_encoder, normalise_tokens_input
from synchuman.nn.sparse_tensor import Voxels
from synchuman.photo.framing import frame_tokens
from synchuman.stage2.conditioning import (
    body_views,
    encode_views,
    encoder_input,
    face_canvas,
    layer_maps,
    view_tokens,
)
from synchuman.stage2.config import (
    SlatFlowConfig,
    SlatNormalisation,
    SlatSamplerConfig,
    Stage2Config,
    ViewTokensConfig,
)
from synchuman.stage2.sampler import denormalise, normalise, sample_flow, sample_slat
from synchuman.stage2.slat_flow import SlatFlow
from synchuman.weights import keymaps


def settings_of(run):
    """The reference counts guidance from 0, and only some of its samplers have an interval of times."""
    low, high = run.get("cfg_interval", (0.0, 1.0))
    return SlatSamplerConfig(run["steps"], run["rescale_t"], 1 + run.get("cfg_strength", 0.0), low, high)


@pytest.mark.parametrize("name", ["plain", "cfg", "interval_inner", "published"])
def test_golden_samplers(name):
    golden = Golden("samplers")
    called = []

    def velocity(state, time, conditional):
        called.append(time)
        condition = golden.tensors["in.cond" if conditional else "in.neg_cond"].flatten(1).mean(1)
        shift, t = condition[:, None, None, None], time / 1000
        return 0.6 * state + 0.5 * np.sin(3 * t) + shift * (1 + t) - 0.1 * state**2

    config = settings_of(golden.meta["runs"][name])
    states = [step.state for step in sample_flow(velocity, golden.tensors["in.noise"], config)]
    assert len(states) == config.steps
    results = {
        "samples": states[-1],
        "x_after_step0": states[0],
        "x_after_step_mid": states[config.steps // 2],
        "model_t": torch.tensor(called),
    }
    golden.check_all(1e-5, {f"out.{name}.{key}": value for key, value in results.items()})


def test_published_sampler_settings_are_the_default():
    assert settings_of(Golden("samplers").meta["runs"]["published"]) == SlatSamplerConfig()


def test_golden_normalisation():
    golden = Golden("samplers")

    def velocity(state, time, conditional):
        mean = golden.tensors["in.cond"][0].mean() if conditional else 0.0
        return 0.6 * state + 0.5 * mean + time / 2000

    noise = torch.randn(24, 8, generator=torch.Generator().manual_seed(golden.meta["slat_seed"]))
    *_, last = sample_flow(velocity, noise, SlatSamplerConfig())
    golden.check_all(1e-5, {"out.slat.feats": denormalise(last.state, SlatNormalisation())})
    torch.testing.assert_close(normalise(denormalise(noise, SlatNormalisation()), SlatNormalisation()), noise)


def small_flow():
    torch.manual_seed(0)
    return SlatFlow(
        SlatFlowConfig(
            resolution=8, channels=4, width=16, condition_width=6, heads=2, blocks=1, io_widths=(8,)
        )
    )


def test_sampling_draws_the_same_noise_and_the_unconditional_pass_sees_zeros():
    flow = small_flow()
    voxels = Voxels.of(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [0, 5, 5, 5]]))
    condition = torch.randn(1, 7, 6)
    config = SlatSamplerConfig(steps=3)
    first, second = ([s.state for s in sample_slat(flow, voxels, condition, config, 5)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[-1], [s.state for s in sample_slat(flow, voxels, condition, config, 6)][-1])
    # One zero token stands for as many as the condition has.
    *_, blind = sample_slat(flow, voxels, torch.zeros(1, 7, 6), SlatSamplerConfig(3, guidance=1.0), 5)
    *_, guided_blind = sample_slat(flow, voxels, torch.zeros(1, 7, 6), config, 5)
    torch.testing.assert_close(blind.state, guided_blind.state, rtol=1e-4, atol=1e-5)


def test_sampling_refuses_what_it_cannot_do():
    voxels = Voxels.of(torch.zeros(0, 4, dtype=torch.int64), batch=1)
    with pytest.raises(ValueError, match="No voxel is occupied"):
        next(sample_slat(small_flow(), voxels, torch.zeros(1, 7, 6), SlatSamplerConfig(), 0))
    voxels = Voxels.of(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 samples of image tokens for 1"):
        next(sample_slat(small_flow(), voxels, torch.zeros(2, 7, 6), SlatSamplerConfig(), 0))


def synthetic_photo(width, height, cx, cy, rx, ry, k):
    """The goldens' photo in integer arithmetic: a blurred ellipse, [h, w, 4] uint8."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    distance = ((x - cx) * 1000 // rx) ** 2 + ((y - cy) * 1000 // ry) ** 2
    alpha = ((1200000 - distance) // 800).clip(0, 255)
    planes = (
        (2 * x + y + 31 * k) % 256,
        (x + 3 * y + 17 * k) % 256,
        (x * x // 64 + y * y // 128 + 7 * k) % 256,
    )
    return np.stack([*planes, alpha], -1).astype(np.uint8)


def view_image(size, k):
    photo = synthetic_photo(
        size, size, size // 2 + 5 * k, size // 2 - 3 * k, size // 5 + 4 * k, size * 9 // 20, k
    )
    color, alpha = photo[..., :3].astype(int), photo[..., 3:].astype(int)
    return ((color * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def test_golden_view_inputs():
    golden = Golden("view_inputs")
    size = golden.meta["view_size"]
    colors, normals = (np.stack([view_image(size, k + start) for k in range(5)]) for start in (0, 10))
    config = ViewTokensConfig(encoder_width=3)

    def toy(images):
        pooled = F.avg_pool2d(images, 14).movedim(1, -1)
        return [(place + 1) * pooled for place in range(len(config.layers))]

    body = body_views(colors, size)
    golden.check_all(
        2e-5,
        {
            "out.mv_img": body,
            "out.mv_normal": body_views(normals, size),
            "out.faces_img": face_canvas(colors),
            "out.faces_normal": face_canvas(normals),
            "out.dino_in_896": encoder_input(body, config.image_size),
            "out.mv_tokens": encode_views(body, config, toy),
        },
    )


def test_golden_single_image_condition():
    golden = Golden("view_inputs")
    photo = golden.meta["photo"]
    rgba = synthetic_photo(photo["W"], photo["H"], *(photo[key] for key in ("cx", "cy", "rx", "ry", "k")))
    pixels = normalise_tokens_input(torch.from_numpy(frame_tokens(rgba))[None])
    tokens = F.avg_pool2d(pixels, 74).flatten(2).transpose(1, 2)
    golden.check_all(2e-5, {"out.dino_in_518": pixels, "out.cond": F.layer_norm(tokens, tokens.shape[-1:])})


TINY = ImageEncoderConfig(width=48, depth=4, heads=3, image_size=70)


def test_views_are_resized_and_encoded_by_the_published_kind_of_encoder():
    encoder = build_image_encoder(TINY).eval()
    config = ViewTokensConfig(view_size=64, image_size=84, encoder_width=48, layers=(0, 1, 3))
    colors = np.stack([view_image(96, k) for k in range(5)])
    views = view_tokens(colors, colors[:, ::-1].copy(), config, encoder)
    assert views.color.shape == views.normal.shape == (1, 4, 6, 6, 144)
    assert not torch.allclose(views.color, views.normal)
    with pytest.raises(ValueError, match="does not fit"):
        view_tokens(colors, colors, ViewTokensConfig(view_size=64), encoder)
    with pytest.raises(ValueError, match="Views must be uint8"):
        body_views(colors[:4], 64)


def test_golden_encoder_layers():
    golden = Stage1Golden("dino_tiny")
    encoder = build_image_encoder(TINY).eval()
    published = {name: published_weight(name, shape) for name, shape in golden.meta["keys"].items()}
    encoder.load_state_dict(keymaps.dinov2(published))
    with torch.no_grad():
        maps = layer_maps(encoder, golden.meta["layers"])(golden.tensors["in.larger"])
    golden.check_all(1e-5, {"out.larger.layers": torch.cat(maps, dim=-1).flatten(1, 2)})


def test_config_survives_json():
    config = Stage2Config()
    assert from_dict(Stage2Config, to_dict(config)) == config
    with pytest.raises(ValueError, match="differ in resolution"):
        Stage2Config(flow=SlatFlowConfig(resolution=32))
