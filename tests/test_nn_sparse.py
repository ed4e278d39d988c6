"""Sparse volumes: golden tensors of the reference, and dense computations of the same thing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage1_golden import fill
from stage2_golden import Golden
from torch.nn import functional as F

from synchuman.nn.attention import FusedSelfAttention
from synchuman.nn.sparse_attention import WindowAttention, find_windows, window_keys
from synchuman.nn.sparse_conv import PointwiseSparseConv3d, SparseConv3d
from synchuman.nn.sparse_norm import SparseGroupNorm
from synchuman.nn.sparse_tensor import SparseTensor, Voxels, downsample, subdivide, upsample

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def golden():
    return Golden("sparse_ops")


@pytest.fixture
def x(golden):
    return SparseTensor(golden.tensors["in.feats"], Voxels.of(golden.tensors["in.coords"].int()))


def filled(module, golden, name, **published):
    names = {key: published.get(key, key) for key, _ in module.named_parameters()}
    fill(module, names, golden.meta["weights_check"][name], prefix=f"{name}.")
    return module


def test_golden_convolutions(golden, x):
    conv = {"weight": "conv.weight", "bias": "conv.bias"}
    golden.check_all(
        TOLERANCE,
        {
            "out.conv3": filled(SparseConv3d(32, 24), golden, "conv3", **conv)(x).feats,
            "out.conv1": filled(PointwiseSparseConv3d(32, 24), golden, "conv1", **conv)(x.feats),
        },
    )


def test_golden_resolutions(golden, x):
    down = downsample(x)
    fine = subdivide(x)
    assert torch.equal(down.voxels.coords, golden.tensors["out.down_coords"].long())
    assert torch.equal(fine.voxels.coords, golden.tensors["out.sub_coords"].long())
    golden.check_all(
        1e-6,
        {
            "out.down_feats": down.feats,
            "out.up_feats": upsample(down.with_feats(2 * down.feats), x.voxels).feats,
            "out.sub_feats": fine.feats,
        },
    )


def test_golden_group_norm(golden, x):
    golden.check_all(TOLERANCE, {"out.gn": filled(SparseGroupNorm(32, 32), golden, "gn")(x).feats})


def test_golden_attention(golden, x):
    full = filled(FusedSelfAttention(32, 4), golden, "attn_full")
    window = filled(WindowAttention(32, 4, normalise=False), golden, "attn_win")
    golden.check_all(
        TOLERANCE,
        {
            "out.attn_full": torch.cat([full(sample[None])[0] for sample in x.samples()]),
            "out.attn_win": window(x, 8, 4).feats,
        },
    )


@pytest.mark.parametrize("shift", [0, 4])
def test_golden_window_partition(golden, x, shift):
    expected = golden.tensors[f"out.win{shift}_id_of_voxel"].long()
    pairs = torch.stack([expected, window_keys(x.voxels, 8, shift)], 1).unique(dim=0)
    lengths = golden.tensors[f"out.win{shift}_lens"]
    assert len(pairs) == len(lengths) == len(pairs[:, 1].unique())
    windows = find_windows(x.voxels, 8, shift)
    assert sum(len(rows) for rows in windows.rows) == len(lengths)
    assert sorted(int(n) for mask in windows.masks for n in mask.flatten(1).sum(1)) == sorted(
        lengths.tolist()
    )


@st.composite
def volumes(draw, channels=3):
    """A random batch of sparse volumes, borders of the grid included, voxels of a sample shuffled."""
    seed, side, batch = draw(st.integers(0, 2**20)), draw(st.integers(1, 7)), draw(st.integers(1, 3))
    density = draw(st.sampled_from([0.05, 0.3, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(batch, side, side, side, generator=generator) < density
    coords = torch.nonzero(occupied)
    shuffled = coords[torch.randperm(len(coords), generator=generator)]
    coords = shuffled[shuffled[:, 0].argsort(stable=True)]
    feats = torch.randn(len(coords), channels, generator=generator)
    return SparseTensor(feats, Voxels.of(coords, batch)), side, generator


def dense(x, side):
    volume = x.feats.new_zeros(x.voxels.batch, side, side, side, x.feats.shape[1])
    volume[tuple(x.voxels.coords.unbind(1))] = x.feats
    return volume


def random_conv(in_channels, out_channels, generator):
    conv = SparseConv3d(in_channels, out_channels)
    for parameter in conv.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


def dense_conv(conv, x, side):
    volume = dense(x, side).movedim(-1, 1)
    full = F.conv3d(volume, conv.weight.movedim(-1, 1), conv.bias, padding=1).movedim(1, -1)
    return full[tuple(x.voxels.coords.unbind(1))]


@given(volumes())
@settings(max_examples=60, deadline=None)
def test_convolution_is_the_dense_one(case):
    x, side, generator = case
    conv = random_conv(3, 5, generator)
    torch.testing.assert_close(conv(x).feats, dense_conv(conv, x, side), rtol=1e-5, atol=2e-5)


@given(volumes())
@settings(max_examples=40, deadline=None)
def test_convolutions_of_a_subdivision_are_the_dense_ones(case):
    x, side, generator = case
    first, second = random_conv(3, 4, generator), random_conv(4, 2, generator)
    fine = subdivide(x)
    folded = first.subdivided(x)
    assert torch.equal(folded.voxels.coords, fine.voxels.coords)
    torch.testing.assert_close(folded.feats, dense_conv(first, fine, 2 * side), rtol=1e-5, atol=5e-5)
    # Here neighbours are derived from the coarse voxels; twice, to go through two levels.
    torch.testing.assert_close(
        second(folded).feats, dense_conv(second, folded, 2 * side), rtol=1e-5, atol=2e-4
    )
    finer = subdivide(folded)
    looked_up = SparseTensor(finer.feats, Voxels.of(finer.voxels.coords, x.voxels.batch))
    torch.testing.assert_close(second(finer).feats, second(looked_up).feats, rtol=1e-5, atol=2e-4)


@given(volumes(channels=8), st.sampled_from([2, 4, 8]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_window_attention_is_masked_dense_attention(case, size, shifted):
    x, _, generator = case
    shift = size // 2 if shifted else 0
    attention = WindowAttention(8, 2, normalise=False)
    for parameter in attention.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    cube = torch.cat(
        [x.voxels.coords[:, :1], (x.voxels.coords[:, 1:] + shift).div(size, rounding_mode="floor")], 1
    )
    same = (cube[:, None] == cube[None]).all(-1)
    q, k, v = attention.to_qkv(x.feats).unflatten(-1, (3, 2, 4)).permute(1, 2, 0, 3)
    scores = (q @ k.transpose(1, 2) / 4**0.5).masked_fill(~same, -torch.inf)
    expected = attention.to_out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(x, size, shift).feats, expected, rtol=1e-4, atol=1e-4)


@given(volumes(channels=8))
@settings(max_examples=30, deadline=None)
def test_group_norm_is_the_dense_one_per_sample(case):
    x, _, generator = case
    norm = SparseGroupNorm(2, 8)
    for parameter in norm.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    samples = [s for s in x.samples() if len(s)]
    parts = [F.group_norm(s.T[None], 2, norm.weight, norm.bias)[0].T for s in samples]
    expected = torch.cat(parts) if parts else x.feats
    torch.testing.assert_close(norm(x).feats, expected, rtol=1e-4, atol=1e-4)


@given(volumes())
@settings(max_examples=30, deadline=None)
def test_downsampling_sums_over_count_plus_one(case):
    x, side, _ = case
    half = (side + 1) // 2
    volume = F.pad(dense(x, side), (0, 0) + (0, side % 2) * 3)
    count = F.pad(dense(x.with_feats(torch.ones(len(x.feats), 1)), side), (0, 0) + (0, side % 2) * 3)
    cells = volume.reshape(-1, half, 2, half, 2, half, 2, 3).sum((2, 4, 6))
    counts = count.reshape(-1, half, 2, half, 2, half, 2, 1).sum((2, 4, 6))
    down = downsample(x)
    assert torch.equal(down.voxels.coords, torch.nonzero(counts[..., 0]))
    expected = (cells / (counts + 1))[tuple(down.voxels.coords.unbind(1))]
    torch.testing.assert_close(down.feats, expected, rtol=1e-5, atol=1e-6)
    up = upsample(down, x.voxels)
    at = x.voxels.coords.clone()
    at[:, 1:] //= 2
    torch.testing.assert_close(up.feats, (cells / (counts + 1))[tuple(at.unbind(1))], rtol=1e-5, atol=1e-6)


def test_everything_is_differentiable():
    coords = torch.nonzero(torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.5)
    voxels = Voxels.of(coords)
    with torch.enable_grad():
        feats = torch.randn(len(voxels), 4, dtype=torch.float64, requires_grad=True)
        conv, norm = SparseConv3d(4, 4).double(), SparseGroupNorm(2, 4)
        loss = norm(conv.subdivided(downsample(SparseTensor(feats, voxels)))).feats.square().sum()
        loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [feats, *conv.parameters()])


def test_half_precision_convolution():
    generator = torch.Generator().manual_seed(0)
    coords = torch.nonzero(torch.ones(1, 5, 5, 5))
    conv = random_conv(16, 8, generator)
    x = SparseTensor(torch.randn(len(coords), 16, generator=generator), Voxels.of(coords))
    expected = conv(x).feats
    half = conv.to(torch.bfloat16)(x.with_feats(x.feats.bfloat16())).feats
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([[0, 1, 1]], "integers"),
        ([[0, 1, -1, 1]], "must lie in"),
        ([[0, 1, 1, 40000]], "must lie in"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], "consecutive"),
        ([[0, 1, 2, 3], [0, 4, 4, 4], [0, 1, 2, 3]], "twice"),
    ],
)
def test_bad_voxels_are_refused(coords, message):
    with pytest.raises(ValueError, match=message):
        Voxels.of(torch.tensor(coords))


def test_mismatches_are_refused():
    voxels = Voxels.of(torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]]))
    with pytest.raises(ValueError, match="only 1 samples"):
        Voxels.of(voxels.coords, batch=1)
    with pytest.raises(ValueError, match="one per voxel"):
        SparseTensor(torch.zeros(3, 1), voxels)
    other = Voxels.of(voxels.coords)
    with pytest.raises(ValueError, match="coarser grid"):
        upsample(downsample(SparseTensor(torch.zeros(2, 1), voxels)), other)
    with pytest.raises(ValueError, match="integers"):
        Voxels.of(torch.zeros(2, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    generator = torch.Generator().manual_seed(7)
    coords = torch.nonzero(torch.rand(2, 12, 12, 12, generator=generator) < 0.3)
    x = SparseTensor(torch.randn(len(coords), 32, generator=generator), Voxels.of(coords))
    conv, norm = random_conv(32, 32, generator), SparseGroupNorm(8, 32)
    attention = WindowAttention(32, 4, normalise=False)

    def everything(x):
        h = norm(conv(x))
        h = upsample(downsample(attention(h, 8, 4)), x.voxels)
        return conv(conv.subdivided(h)).feats

    expected = everything(x)
    conv.cuda(), norm.cuda(), attention.cuda()
    got = everything(SparseTensor(x.feats.cuda(), x.voxels.to("cuda"))).cpu()
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
