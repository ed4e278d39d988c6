"""Joined operations: plain torch against what they stand for, and the Triton kernels in Triton's interpreter."""

import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from synchuman.nn import fused
from synchuman.nn.arrange import arrange
from synchuman.nn.attention import Attention, joined
from synchuman.stage1.config import AutoencoderConfig
from synchuman.stage1.image_autoencoder import build_image_autoencoder
from synchuman.stage1.unet_blocks import Doubling, ResidualBlock


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_with_weights(norm, seed=5):
    for index, parameter in enumerate(norm.parameters()):
        parameter.data = 1 - index + 0.3 * draw(*parameter.shape, seed=seed + index)
    return norm.requires_grad_(False)


def test_chains_are_what_they_stand_for():
    x, delta = draw(2, 7, 24), draw(2, 7, 24, seed=1)
    gate, scale, shift = draw(3, 2, 1, 24, seed=2)
    norm = norm_with_weights(nn.LayerNorm(24))
    total, normed = fused.add_layer_norm(x, delta, norm, gate, scale, shift)
    torch.testing.assert_close(total, x + gate * delta)
    torch.testing.assert_close(normed, norm(x + gate * delta) * (1 + scale) + shift)
    maps, group = draw(2, 8, 3, 5, seed=3), norm_with_weights(nn.GroupNorm(4, 8))
    moved = fused.group_norm(maps, group, silu=True, shift=draw(2, 8, seed=4))
    torch.testing.assert_close(moved, F.silu(group(maps + draw(2, 8, seed=4)[:, :, None, None])))
    bias = draw(8, seed=5)
    torch.testing.assert_close(fused.add_maps(maps, -maps, bias), bias.view(1, 8, 1, 1).expand_as(maps))
    torch.testing.assert_close(fused.geglu(x), x[..., :12] * F.gelu(x[..., 12:]))
    kept, normed = fused.add_layer_norm(x, delta, norm, offset=draw(24, seed=6))
    torch.testing.assert_close(kept, x + delta + draw(24, seed=6))
    torch.testing.assert_close(normed, norm(x + delta))
    joined_maps = fused.group_norm((maps[:, :3], maps[:, 3:]), group)
    torch.testing.assert_close(joined_maps, group(maps))


def test_norm_in_another_order():
    x, delta = draw(2, 3, 5, 2, 4, 24), draw(2, 3, 2, 4, 4, 24, seed=1).transpose(2, 3)
    norm = norm_with_weights(nn.LayerNorm(24))
    total, normed = fused.add_layer_norm_in_order(x, delta, norm, (1, 2, 0, 3, 4), 3)
    expected = x.clone()
    expected[:, :, :4] += delta
    torch.testing.assert_close(total, expected)
    assert normed.shape == (3, 3, 2, 2, 4, 24) and normed.is_contiguous()
    torch.testing.assert_close(normed.permute(2, 0, 1, 3, 4, 5), norm(expected)[:, :, :3])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_in_parts_and_doubled_are_what_they_stand_for(layout):
    maps = draw(2, 24, 4, 4).contiguous(memory_format=layout)
    parts = maps[:, :8].contiguous(memory_format=layout), maps[:, 8:].contiguous(memory_format=layout)
    block = ResidualBlock(in_channels=24, out_channels=16, temb_channels=12, groups=4)
    doubling = Doubling(24)
    for parameter in [*block.parameters(), *doubling.parameters()]:
        parameter.data = parameter.data.contiguous(memory_format=layout) if parameter.ndim == 4 else parameter
    time = draw(2, 12, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(block(parts[0], time, parts[1]), ResnetBlock2D.forward(block, maps, time))
        doubled = doubling(maps, doubling.fold())
        torch.testing.assert_close(doubled, Upsample2D.forward(doubling, maps))
    doubling(maps, doubling.fold()).square().sum().backward()
    ours = doubling.conv.weight.grad.clone()
    doubling.zero_grad()
    Upsample2D.forward(doubling, maps).square().sum().backward()
    torch.testing.assert_close(ours, doubling.conv.weight.grad, rtol=1e-4, atol=1e-4)


def test_joined_image_autoencoder_is_the_published_one():
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **sizes
        )
        torch.manual_seed(0)
        ours = build_image_autoencoder(AutoencoderConfig(widths=(8, 16), layers=1, norm_groups=4))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))
    kinds = {type(module) for module in ours.modules()}
    assert not kinds & {ResnetBlock2D, Upsample2D, nn.GroupNorm}
    with torch.no_grad():
        latents, images = draw(2, 4, 8, 8), draw(1, 3, 16, 16)
        torch.testing.assert_close(ours.decode(latents).sample, theirs.decode(latents).sample)
        torch.testing.assert_close(
            ours.encode(images).latent_dist.mode(), theirs.encode(images).latent_dist.mode()
        )


def test_joined_projections_attend_alike_and_move():
    attention = Attention(24, 24, heads=3, head_width=8).requires_grad_(False)
    x = draw(2, 5, 24)
    apart = attention(x)
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    attention.join()
    weights = [layer.weight for layer in (attention.to_q, attention.to_k, attention.to_v)]
    together = joined(*weights)
    assert together is not None and together.shape == (72, 24)
    assert together.data_ptr() == attention.to_q.weight.data_ptr()
    torch.testing.assert_close(attention(x), apart)
    for name, value in attention.state_dict().items():
        assert torch.equal(value, before[name])
    pointer = attention.to_q.weight.data_ptr()
    attention.join()
    assert attention.to_q.weight.data_ptr() == pointer
    attention.double()  # another type, hence other places in memory
    assert joined(*(layer.weight for layer in (attention.to_q, attention.to_k, attention.to_v))) is None
    torch.testing.assert_close(attention(x.double()).float(), apart)


def test_joined_projections_still_learn():
    attention = Attention(8, 8, heads=2, head_width=4)
    attention.join()
    attention(draw(1, 3, 8)).square().sum().backward()
    for layer in (attention.to_q, attention.to_k, attention.to_v):
        assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_cross_attention_is_not_joined():
    attention = Attention(8, 12, heads=2, head_width=4)
    attention.join()
    assert joined(attention.to_q.weight, attention.to_k.weight, attention.to_v.weight) is None


def test_arranging_leaves_networks_off_the_gpu_alone():
    network = nn.ModuleList([nn.Conv2d(4, 4, 3), Attention(8, 8, 2, 4)])
    places = [parameter.data_ptr() for parameter in network.parameters()]
    arrange(network)
    assert [parameter.data_ptr() for parameter in network.parameters()] == places


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "kernel_of"]
    import os

    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def kernels():
    import os

    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("runs in the interpreter, started by another test")
    return importlib.import_module("synchuman.nn.triton_kernels")


@pytest.mark.parametrize(
    ("rows", "channels", "groups"), [(1100, 40, 4), (9, 96, 32), (70, 160, 16), (17000, 8, 2)]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_kernel_of_group_norm(kernels, rows, channels, groups, shifted):
    x = 3 + draw(2, rows, channels)
    norm = norm_with_weights(nn.GroupNorm(groups, channels, eps=1e-5))
    shift = draw(2, channels, seed=2) if shifted else None
    out = kernels.group_norm(x, norm.weight, norm.bias, groups, norm.eps, True, shift)
    expected = x if shift is None else x + shift[:, None]
    torch.testing.assert_close(
        out, F.silu(norm(expected.transpose(1, 2))).transpose(1, 2), rtol=1e-4, atol=1e-5
    )
    cut = channels // 2 - 1  # inside of a group
    first, second = x[..., :cut].contiguous(), x[..., cut:].contiguous()
    parts = kernels.group_norm(first, norm.weight, norm.bias, groups, norm.eps, True, shift, second)
    torch.testing.assert_close(parts, out)


def test_kernel_of_norm_in_another_order(kernels):
    x, delta = draw(2, 2, 5, 3, 3, 40), draw(2, 2, 3, 4, 3, 40, seed=1).transpose(2, 3)
    norm = norm_with_weights(nn.LayerNorm(40))
    for given, order, length in ((None, (1, 2, 0, 3, 4), 5), (delta, (0, 1, 3, 2, 4), 4)):
        ours = kernels.add_layer_norm_in_order(x, given, norm, order, length)
        theirs = fused.add_layer_norm_in_order(x, given, norm, order, length)
        assert ours[1].is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_kernel_of_phases(kernels):
    phases, bias = draw(2, 4, 4, 4 * 72), draw(72, seed=1)
    expected = fused.spread_phases(phases.movedim(-1, 1), bias).movedim(1, -1)
    torch.testing.assert_close(kernels.spread_phases(phases, bias), expected)


def test_kernel_of_maps_and_gates(kernels):
    x, residual, bias = draw(3, 30, 72), draw(3, 30, 72, seed=1), draw(72, seed=2)
    torch.testing.assert_close(kernels.add_biased(x, residual, bias), x + residual + bias)
    torch.testing.assert_close(kernels.geglu(x), fused.geglu(x), rtol=1e-5, atol=1e-6)


def test_kernel_of_heads(kernels):
    qkv, gammas = draw(2, 5, 3, 3, 16), draw(2, 3, 16, seed=1)
    expected = fused.normalise_heads(qkv.clone(), *gammas)
    kernels.normalise_heads_(qkv, *gammas)
    for mine, theirs in zip(qkv.unbind(-3), expected):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_kernel_of_layer_norm(kernels, affine, images):
    x, delta = draw(2, 50, 40), draw(2, 50, 40, seed=1)
    gate, scale, shift = draw(images, 1, 120, seed=2).chunk(3, dim=-1)
    norm = norm_with_weights(nn.LayerNorm(40, eps=1e-6, elementwise_affine=affine))
    for arguments in ((x, delta, gate, scale, shift), (x, delta, None, None, None)):
        x, delta, gate, scale, shift = arguments
        ours = kernels.add_layer_norm(x, delta, gate, norm, scale, shift)
        theirs = fused.add_layer_norm(x, delta, norm, gate, scale, shift)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours = kernels.add_layer_norm(x, delta, None, norm, None, None, draw(40, seed=9))
    torch.testing.assert_close(
        ours, fused.add_layer_norm(x, delta, norm, offset=draw(40, seed=9)), rtol=1e-4, atol=1e-5
    )
    same, normed = kernels.add_layer_norm(x, None, None, norm, None, None)
    assert same is x
    torch.testing.assert_close(normed, norm(x), rtol=1e-4, atol=1e-5)
