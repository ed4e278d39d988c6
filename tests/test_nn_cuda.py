"""What only runs on a GPU: Triton kernels against plain torch in half precision, recorded steps, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from synchuman.nn import fused
from synchuman.nn.arrange import arrange
from synchuman.nn.attention import Attention
from synchuman.nn.cuda_graph import GraphedFunction, shared_pool
from synchuman.stage1.unet_blocks import Doubling, ResidualBlock

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def both_ways(call, dtype):
    """Return what kernels and what plain torch in float32 give, after checking that kernels ran."""
    assert fused._kernels() is not None, "Triton builds no kernels here"
    with torch.inference_mode():
        mine = call(lambda x: x.to(dtype))
        with fused.plain_torch():
            plain = call(lambda x: x.to(dtype).float())
    for ours, theirs in zip(mine, plain, strict=True):
        assert ours.dtype == dtype
        scale = theirs.abs().max()
        assert (ours.float() - theirs).abs().max() <= 2 * torch.finfo(dtype).eps * scale


@HALF
@pytest.mark.parametrize(("side", "channels"), [(96, 320), (48, 640), (24, 1280), (12, 1280), (16, 1024)])
def test_group_norm(dtype, side, channels):
    maps = draw(4, channels, side, side).contiguous(memory_format=torch.channels_last)
    shift = draw(4, channels, seed=1)
    norm = nn.GroupNorm(32, channels).cuda()

    def call(cast):
        own = nn.GroupNorm(32, channels).cuda().to(cast(maps).dtype)
        own.load_state_dict(norm.state_dict())
        moved = fused.group_norm(cast(maps), own, silu=True, shift=cast(shift))
        return moved, fused.group_norm(cast(maps), own), fused.add_maps(moved, cast(maps), cast(shift)[0])

    both_ways(call, dtype)


@HALF
@pytest.mark.parametrize("width", [320, 640, 1024, 1280])
def test_layer_norm_gates_and_heads(dtype, width):
    x, delta = draw(2, 1000, width), draw(2, 1000, width, seed=1)
    gate, scale, shift = (0.5 * draw(3, 2, 1, width, seed=2)).unbind(0)
    heads = draw(2, 50, 3, width // 64, 64, seed=3)
    gains = draw(2, width // 64, 64, seed=4)

    def call(cast):
        dtype = cast(x).dtype
        bare, full = (
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine).cuda().to(dtype)
            for affine in (False, True)
        )
        gated = fused.add_layer_norm(cast(x), cast(delta), full, cast(gate))
        modulated = fused.add_layer_norm(cast(x), cast(delta), bare, scale=cast(scale), shift=cast(shift))
        gains_ = cast(gains)
        normed = fused.normalise_heads(cast(heads).clone(), gains_[0], gains_[1])
        return *gated, *modulated, fused.layer_norm(cast(x), full), fused.geglu(cast(x)), *normed

    both_ways(call, dtype)


@HALF
@pytest.mark.parametrize("channels", [(320, 640), (1280, 640)])
def test_group_norm_of_parts(dtype, channels):
    parts = [draw(4, c, 24, 24, seed=c).contiguous(memory_format=torch.channels_last) for c in channels]
    norm = nn.GroupNorm(32, sum(channels)).cuda()

    def call(cast):
        own = nn.GroupNorm(32, sum(channels)).cuda().to(cast(parts[0]).dtype)
        own.load_state_dict(norm.state_dict())
        return (fused.group_norm((cast(parts[0]), cast(parts[1])), own, silu=True),)

    both_ways(call, dtype)


@HALF
def test_group_norm_of_a_large_image(dtype):
    image = 2 + draw(1, 128, 768, 768).contiguous(memory_format=torch.channels_last)

    def call(cast):
        return (fused.group_norm(cast(image), nn.GroupNorm(32, 128).cuda().to(cast(image).dtype)),)

    both_ways(call, dtype)


@HALF
@pytest.mark.parametrize("width", [320, 640, 1280])
def test_norm_in_another_order(dtype, width):
    x = draw(2, 2, 5, 12, 12, width)
    delta = draw(2, 2, 12, 4, 12, width, seed=1).transpose(2, 3)

    def call(cast):
        norm = nn.LayerNorm(width).cuda().to(cast(x).dtype)
        return (
            *fused.add_layer_norm_in_order(cast(x), None, norm, (1, 2, 0, 3, 4), 5),
            *fused.add_layer_norm_in_order(cast(x), cast(delta), norm, (0, 1, 3, 2, 4), 4),
        )

    both_ways(call, dtype)


@HALF
def test_doubling_and_maps_in_parts_are_diffusers(dtype):
    doubling = Doubling(64).cuda().to(dtype).requires_grad_(False)
    block = ResidualBlock(in_channels=128, out_channels=64, temb_channels=32).cuda().to(dtype)
    block.requires_grad_(False)
    maps, skip, time = draw(2, 64, 24, 24).to(dtype), draw(2, 64, 24, 24, seed=1).to(dtype), draw(2, 32)
    maps, skip = (x.contiguous(memory_format=torch.channels_last) for x in (maps, skip))
    with torch.inference_mode():
        pairs = [
            (doubling(maps), Upsample2D.forward(doubling, maps)),
            (
                block(maps, time.to(dtype), skip),
                ResnetBlock2D.forward(block, torch.cat([maps, skip], 1), time.to(dtype)),
            ),
        ]
        assert pairs[0][0].movedim(1, -1).is_contiguous()
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 4 * torch.finfo(dtype).eps * theirs.abs().max()


def test_a_recording_follows_its_inputs():
    layer = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU()).cuda().half()
    layer.requires_grad_(False)
    arrange(layer)
    graph = GraphedFunction(lambda x, time: (layer(x) * time,))
    with torch.inference_mode():
        for turn in range(4):
            x, time = draw(2, 8, 16, 16, seed=turn).half(), torch.tensor(1.0 + turn, device="cuda").half()
            if turn % 2:
                x = x.contiguous(memory_format=torch.channels_last)
            assert torch.equal(graph(x, time)[0], layer(x) * time)
        graph.release()
        assert torch.equal(graph(x, time)[0], layer(x) * time)


def test_recordings_share_memory():
    first, second = nn.Linear(64, 64).cuda(), nn.Linear(64, 64).cuda()
    pool = shared_pool(torch.device("cuda"))
    with torch.inference_mode():
        graphs = [GraphedFunction(lambda x, n=n: (n(n(x)),), pool) for n in (first, second)]
        for turn in range(4):
            x = draw(32, 64, seed=turn)
            # As the guided sampler does: the first result is still wanted after the second call.
            a, b = graphs[0](x)[0], graphs[1](x)[0]
            assert torch.equal(a, first(first(x))) and torch.equal(b, second(second(x)))


RELEASED_AT_ONCE = """
import torch
from synchuman.nn.cuda_graph import GraphedFunction

def long(x):
    for _ in range(300):
        x = torch.tanh(x @ x)
    return (x,)

x = 0.01 * torch.randn(4096, 4096, device="cuda")
graphed = GraphedFunction(long)
for _ in range(3):
    y = graphed(x)[0]
kept = y.clone()
graphed.release()
torch.cuda.synchronize()
assert torch.equal(kept, long(x)[0])
"""


@pytest.mark.parametrize("expandable", ["True", "False"])
def test_a_recording_is_released_after_its_last_replay(expandable):
    options = {"PYTORCH_ALLOC_CONF": f"expandable_segments:{expandable}"}
    command = [sys.executable, "-c", RELEASED_AT_ONCE]
    done = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@HALF
def test_arranged_attention_agrees(dtype):
    attention = Attention(320, 320, heads=5, head_width=64).cuda().to(dtype).requires_grad_(False)
    x = draw(4, 300, 320).to(dtype)
    with torch.inference_mode():
        before = attention(x)
        arrange(attention)
        after = attention(x)
    assert (after - before).abs().max() <= 4 * torch.finfo(dtype).eps * before.abs().max()
