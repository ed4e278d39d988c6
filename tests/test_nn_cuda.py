"""What only runs on a GPU: Triton kernels against plain torch in half precision, recorded steps, peak memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from synchuman.nn import fused
from synchuman.nn.arrange import arrange
from synchuman.nn.attention import Attention
from synchuman.nn.cuda_graph import GraphedFunction, shared_pool

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


@HALF
def test_arranged_attention_agrees(dtype):
    attention = Attention(320, 320, heads=5, head_width=64).cuda().to(dtype).requires_grad_(False)
    x = draw(4, 300, 320).to(dtype)
    with torch.inference_mode():
        before = attention(x)
        arrange(attention)
        after = attention(x)
    assert (after - before).abs().max() <= 4 * torch.finfo(dtype).eps * before.abs().max()
