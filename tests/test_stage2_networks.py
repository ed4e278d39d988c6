"""Stage 2 networks: published names and shapes, golden tensors of the reference, batches."""

import pytest
import torch
from stage2_golden import Golden, fill, manifest, record

from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage2.config import (
    DecoderTrunkConfig,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    ViewTokensConfig,
)
from synchuman.stage2.gaussian_decoder import GaussianDecoder
from synchuman.stage2.mesh_decoder import COLOR, DEFORM, FEATURES, SDF, WEIGHTS, MeshDecoder
from synchuman.stage2.networks import cast_torso
from synchuman.stage2.slat_flow import SlatFlow
from synchuman.stage2.view_tokens import MultiviewLayer, ViewTokens, find_seen
from synchuman.weights.keymaps import rename
from synchuman.weights.keymaps_stage2 import STAGE2

TOLERANCE = 1e-5
SMALL_FLOW = SlatFlowConfig(width=64, condition_width=48, heads=4, blocks=3, io_widths=(32,))
SMALL_SLAT_FLOW = SlatFlowConfig(
    resolution=8, channels=4, width=16, condition_width=6, heads=2, blocks=2, io_widths=(8, 12)
)
MINI_VIEWS = ViewTokensConfig(view_size=48, image_size=56, encoder_width=6, layers=(0, 1))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("network", "build"),
    [
        ("slat_flow", lambda: SlatFlow(SlatFlowConfig())),
        ("slat_decoder_mesh", lambda: MeshDecoder(MeshDecoderConfig(), ViewTokensConfig())),
        ("slat_decoder_gs", lambda: GaussianDecoder(GaussianDecoderConfig(), ViewTokensConfig())),
    ],
)
def test_published_names_and_shapes(network, build):
    published = {rename(name, STAGE2): shape for name, shape in manifest(network).items()}
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    assert ours == published
    assert len(published) == len(manifest(network))


@pytest.mark.parametrize("name", ["slat_flow", "slat_flow_batch2"])
def test_golden_flow(name):
    golden = Golden(name)
    flow = SlatFlow(SMALL_FLOW)
    fill(flow, "slat_flow", golden.meta["weights_check"])
    results = {}
    modules = ("input_layer", "input_blocks.0", "input_blocks.1", "blocks.2", "out_blocks.1", "t_embedder")
    if name == "slat_flow":
        modules += ("blocks.0", "out_blocks.0")
    record(flow, {f"tap.{module}": module for module in modules if module != "blocks.2"}, results)
    record(flow, {"padded": "blocks.2"}, results)
    x = SparseTensor(golden.tensors["in.feats"], Voxels.of(golden.tensors["in.coords"].int()))
    results["out.feats"] = flow(x, golden.tensors["in.t"], flow.project(golden.tensors["in.cond"])).feats
    sizes = x.voxels.coarser()[0].sizes
    results["tap.blocks.2"] = torch.cat([s[:n] for s, n in zip(results.pop("padded"), sizes, strict=True)])
    if "tap.blocks.0" in results:
        results["tap.blocks.0"] = results["tap.blocks.0"][0]
    golden.check_all(TOLERANCE, results)


def golden_decoder_inputs(golden):
    shape = (1, 4, 64, 64, 4096)
    views = ViewTokens(golden.input("mv_color", *shape), golden.input("mv_normal", *shape))
    slat = SparseTensor(golden.tensors["in.feats"], Voxels.of(golden.tensors["in.coords"].int()))
    return slat, views


def trunk_taps(blocks):
    names = [*(f"blocks.{i}" for i in range(blocks)), "blocks.0.attn", "blocks.0.mv_condition"]
    return {f"tap.{name}": name for name in names}


def test_golden_mesh_decoder():
    golden = Golden("decoder_mesh")
    config = MeshDecoderConfig(DecoderTrunkConfig(width=256, heads=4, blocks=3), widths=(64, 32))
    decoder = MeshDecoder(config, ViewTokensConfig())
    fill(decoder, "slat_decoder_mesh", golden.meta["weights_check"])
    results = {}
    taps = trunk_taps(3) | {"tap.upsample.0": "upsample.0", "tap.upsample.1": "upsample.1"}
    record(decoder, taps | {"tap.blocks.1.attn": "blocks.1.attn"}, results)
    out = decoder(*golden_decoder_inputs(golden))
    results["out.feats"] = out.feats
    results["out.feats_column_mean_std"] = torch.stack([out.feats.mean(0), out.feats.std(0)], dim=1)
    golden.check_all(TOLERANCE, results)
    assert torch.equal(out.voxels.coords[::77], golden.tensors["out.coords"].long())
    layout = {"sdf": SDF, "deform": DEFORM, "weights": WEIGHTS, "color": COLOR}
    assert {name: [part.start, part.stop] for name, part in layout.items()} == golden.meta["layout"]
    assert config.resolution == 256


def test_golden_gaussian_decoder():
    golden = Golden("decoder_gs")
    config = GaussianDecoderConfig(DecoderTrunkConfig(width=64, heads=4, blocks=3))
    decoder = GaussianDecoder(config, ViewTokensConfig())
    fill(decoder, "slat_decoder_gs", golden.meta["weights_check"])
    results = {}
    record(decoder, {key: name for key, name in trunk_taps(3).items() if key in golden.tensors}, results)
    slat, views = golden_decoder_inputs(golden)
    raw = decoder.decode(slat, views)
    gaussians = decoder.gaussians(raw, slat.voxels)
    results |= {
        "out.out_layer": raw,
        "out.offset_perturbation": decoder.offset_perturbation,
        "out.means": gaussians.means,
        "out.scales": gaussians.scales,
        "out.rotations": gaussians.rotations,
        "out.opacities": gaussians.opacities,
        "out.sh_dc": gaussians.sh_dc[:, None],
    }
    golden.check_all(TOLERANCE, results)
    assert gaussians.sizes == (130 * 32,)


def mini_case(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    occupied = (
        torch.rand(batch, 8, 8, 8, generator=generator)
        < torch.tensor([0.1, 0.4, 0.2])[:batch, None, None, None]
    )
    coords = torch.nonzero(occupied)
    shuffled = coords[torch.randperm(len(coords), generator=generator)]
    coords = shuffled[shuffled[:, 0].argsort(stable=True)]
    slat = SparseTensor(torch.randn(len(coords), 4, generator=generator), Voxels.of(coords, batch))
    color, normal = torch.randn(2, batch, 4, 4, 4, 12, generator=generator)
    return slat, ViewTokens(color, normal)


def single(slat, views, sample):
    mine = slat.voxels.coords[:, 0] == sample
    coords = slat.voxels.coords[mine].clone()
    coords[:, 0] = 0
    one = slice(sample, sample + 1)
    return SparseTensor(slat.feats[mine], Voxels.of(coords)), ViewTokens(views.color[one], views.normal[one])


MINI_TRUNK = DecoderTrunkConfig(resolution=8, channels=4, width=16, heads=2, blocks=2, window=4, view_width=8)


def random_weights(module):
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def test_small_decoders_decode_each_sample_of_a_batch_alike():
    slat, views = mini_case(3)
    mesh = random_weights(
        MeshDecoder(MeshDecoderConfig(MINI_TRUNK, widths=(8, 8), norm_groups=4), MINI_VIEWS)
    )
    gaussian = random_weights(GaussianDecoder(GaussianDecoderConfig(MINI_TRUNK, per_voxel=5), MINI_VIEWS))
    features, gaussians = mesh(slat, views), gaussian(slat, views).split()
    assert features.feats.shape == (64 * len(slat.voxels), FEATURES)
    for sample, mine in enumerate(features.samples()):
        alone = single(slat, views, sample)
        torch.testing.assert_close(mesh(*alone).feats, mine, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gaussian(*alone).means, gaussians[sample].means, rtol=1e-5, atol=1e-6)


def test_small_flow_with_two_finer_levels_moves_each_sample_of_a_batch_alike():
    slat, views = mini_case(2)
    flow = random_weights(SlatFlow(SMALL_SLAT_FLOW))
    condition = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([300.0, 900.0])
    together = flow(slat, times, flow.project(condition))
    for sample, mine in enumerate(together.samples()):
        alone, _ = single(slat, views, sample)
        one = slice(sample, sample + 1)
        torch.testing.assert_close(
            flow(alone, times[one], flow.project(condition[one])).feats, mine, rtol=1e-4, atol=1e-5
        )


def test_multiview_layer_is_one_linear_layer_on_what_a_voxel_sees():
    slat, views = mini_case(2, seed=5)
    layer = random_weights(MultiviewLayer(6, 12, 20))
    h = torch.randn(len(slat.voxels), 6, generator=torch.Generator().manual_seed(4))
    seen = []
    for b, x, y, z in slat.voxels.coords.tolist():
        # Eight voxels per axis see four tokens per axis; z grows upwards, rows downwards.
        columns = (x // 2, y // 2, x // 2, y // 2)
        for images in (views.normal, views.color):
            seen += [images[b, view, (7 - z) // 2, columns[view]] for view in range(4)]
    tokens = torch.stack(seen).reshape(len(h), -1)
    expected = layer[2](layer[1](layer[0](torch.cat([h, tokens], dim=1))))
    torch.testing.assert_close(layer(h, find_seen(views, slat.voxels, 8)), expected, rtol=1e-4, atol=1e-5)


def test_gaussian_fields_are_in_range():
    slat, views = mini_case(1)
    decoder = random_weights(GaussianDecoder(GaussianDecoderConfig(MINI_TRUNK, per_voxel=4), MINI_VIEWS))
    gaussians = decoder(slat, views)
    assert gaussians.means.abs().max() <= 0.5 + 0.25 / 8
    assert ((gaussians.colors >= 0) & (gaussians.colors <= 1)).all()
    torch.testing.assert_close(gaussians.rotations.norm(dim=1), torch.ones(len(gaussians)))
    assert (gaussians.scales >= decoder.config.smallest_scale).all()


def test_lower_precision_of_the_torso_or_of_everything():
    slat, views = mini_case(1)
    mesh = random_weights(
        MeshDecoder(MeshDecoderConfig(MINI_TRUNK, widths=(8, 8), norm_groups=4), MINI_VIEWS)
    )
    gaussian = random_weights(GaussianDecoder(GaussianDecoderConfig(MINI_TRUNK, per_voxel=4), MINI_VIEWS))
    flow = random_weights(SlatFlow(SMALL_SLAT_FLOW))
    condition, times = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(2)), torch.tensor([300.0])

    def run():
        velocity = flow(slat, times, flow.project(condition)).feats
        return mesh(slat, views).feats, gaussian.decode(slat, views), velocity

    expected = run()
    for network in (mesh, gaussian, flow):
        cast_torso(network, torch.bfloat16)
    for half, full in zip(run(), expected, strict=True):
        assert half.dtype == torch.float32
        assert not torch.equal(half, full)
        assert torch.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.999
    for network in (mesh, gaussian, flow):
        network.bfloat16()
    for half, full in zip(run(), expected, strict=True):
        assert half.dtype == torch.float32
        assert torch.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.998


def test_mismatched_views_are_refused():
    slat, views = mini_case(2)
    with pytest.raises(ValueError, match="1 samples of view tokens for 2"):
        find_seen(ViewTokens(views.color[:1], views.normal[:1]), slat.voxels, 8)
    with pytest.raises(ValueError, match="View tokens must be"):
        ViewTokens(views.color, views.normal[:1])


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (SlatFlowConfig, {"width": 100, "heads": 16}),
        (SlatFlowConfig, {"resolution": 63}),
        (DecoderTrunkConfig, {"window": 7}),
        (MeshDecoderConfig, {"widths": (100, 96)}),
        (ViewTokensConfig, {"image_size": 900}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config, values):
    with pytest.raises(ValueError, match="Bad network sizes"):
        config(**values)
