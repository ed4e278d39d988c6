"""Blocks of Stage 1 against golden tensors of the reference, and the wiring of batches."""

import numpy as np
import pytest
import torch
from stage1_golden import Golden, fill, published_names

from synchuman.nn.embeddings import TimestepEmbedder, position_embedding, sinusoid
from synchuman.nn.transformer import ModulatedBlock
from synchuman.nn.volume import pixel_shuffle_3d
from synchuman.stage1.config import StructureDecoderConfig
from synchuman.stage1.multiview_transformer import MultiviewTransformer
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.stage1.sync import SyncToStructure, SyncToViews

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def record(module, taps, results):
    for key, name in taps.items():
        module.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, key=key: results.__setitem__(key, out)
        )


@pytest.mark.parametrize(
    ("name", "batch", "rows"), [("mv_transformer_a", 20, 12), ("mv_transformer_b", 10, 24)]
)
def test_multiview_transformer(name, batch, rows):
    golden = Golden(name)
    network = MultiviewTransformer(32, heads=4, prompt_width=24, norm_groups=32)
    prefix = "down_blocks.0.attentions.0."
    fill(network, published_names(prefix, prefix), golden.meta["weights_check"])
    taps = {}
    record(
        network,
        {
            "tap.proj_in": "proj_in",
            "tap.transformer_blocks.0": "block",
            "tap.transformer_blocks.0.attn2": "block.attn2",
        },
        taps,
    )
    watched = network.block.ff.register_forward_pre_hook(
        lambda _m, inputs: taps.update(normed=inputs[0].clone())
    )
    for method, key in (("attend_domains", "attn1"), ("attend_rows", "attn_mv")):
        inner = getattr(network.block, method)

        def recorded(x, inner=inner, key=key):
            result = inner(x)
            taps[f"tap.transformer_blocks.0.{key}"] = result.flatten(3, 4).flatten(0, 2)
            return result

        setattr(network.block, method, recorded)
    maps = golden.input("hidden_states", batch, 32, rows, rows)
    prompts = golden.input("encoder_hidden_states", batch, 7, 24)
    taps["out.hidden_states"] = network(maps, network.project(prompts))
    watched.remove()
    taps["tap.transformer_blocks.0.ff"] = network.block.ff(taps.pop("normed"))
    golden.check_all(TOLERANCE, taps)


def test_sync_to_structure():
    golden = Golden("sync_2d_to_3d")
    network = SyncToStructure(64, 32, grid=16, heads=2, head_width=16, norm_groups=32, kernel=3, mlp_ratio=4)
    names = published_names("dual_CrossAttblocks_SS.0.", "to_structure.0.")
    fill(network, names, golden.meta["weights_check"])
    taps = {}
    record(network, {"tap.output_layer_stucture": "structure_out", "tap.ffn_stucture": "ff"}, taps)
    out = network(golden.input("MV", 20, 64, 24, 24), golden.input("structure", 2, 4096, 32))
    golden.check_all(TOLERANCE, {"out": out, **taps})


def test_sync_to_views():
    golden = Golden("sync_3d_to_2d")
    network = SyncToViews(64, 32, grid=16, heads=2, head_width=16, norm_groups=32, kernel=3, mlp_ratio=4)
    names = published_names("dual_CrossAttblocks_MV.0.", "to_views.0.")
    fill(network, names, golden.meta["weights_check"])
    maps = golden.input("MV", 20, 64, 12, 12)
    out = network(maps, golden.input("structure", 2, 4096, 32))
    golden.check_all(TOLERANCE, {"out": out})
    torch.testing.assert_close(out[4::5], maps[4::5], rtol=0, atol=0)


def test_structure_block_and_embeddings():
    golden = Golden("structure_block")
    block = ModulatedBlock(64, 48, heads=4)
    fill(block, published_names("blocks.0.", "structure.blocks.0."), golden.meta["weights_check"])
    embedder = TimestepEmbedder(64)
    names = published_names("t_embedder.", "structure.t_embedder.")
    fill(embedder, names, golden.meta["weights_check_t_embedder"], prefix="t_embedder.")
    tensors = golden.tensors
    time = embedder(tensors["in.t"])
    golden.check_all(
        TOLERANCE,
        {
            "out.t_emb": time,
            "out.x": block(tensors["in.x"], time, block.project(tensors["in.context"])),
            "out.pos_emb": position_embedding(tensors["in.pos_coords"], 64),
            "out.pos_emb_1024": position_embedding(tensors["in.pos_coords"][-2:], 1024),
            "out.pixel_shuffle_out": pixel_shuffle_3d(tensors["in.pixel_shuffle_in"]),
        },
    )
    # The last bit of a float32 frequency near 1 is 6e-8; at 750 that is 4.5e-5 of angle, and exp() differs in it
    # from processor to processor.
    frequencies = sinusoid(torch.tensor([750.0, 3.5, 0.0]), 256)
    torch.testing.assert_close(frequencies[:1], tensors["out.t_freq"][:1], rtol=0, atol=6e-5)
    torch.testing.assert_close(frequencies[1:], tensors["out.t_freq"][1:], rtol=0, atol=1e-6)


def test_structure_decoder():
    golden = Golden("structure_decoder")
    network = StructureDecoder(StructureDecoderConfig(channels=(24, 16, 8)))
    fill(network, published_names("", "", "structure_decoder"), golden.meta["weights_check"])
    taps = {}
    record(network, {f"tap.{name}": name for name in ("input_layer", "middle_block", "blocks.2")}, taps)
    logits = network(golden.input("x", 1, 8, 16, 16, 16))
    golden.check_all(TOLERANCE, {"out.logits": logits, **taps})
    expected = np.unpackbits(golden.tensors["out.occupancy_packbits"].numpy()).reshape(64, 64, 64)
    assert np.count_nonzero((logits[0, 0] > 0).numpy() != expected) <= 3
