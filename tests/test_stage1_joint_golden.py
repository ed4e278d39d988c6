"""The whole joint network against the reference, at reduced and at published width."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from stage1_golden import Golden, fill, manifest

from synchuman.nn.embeddings import position_embedding
from synchuman.stage1.config import JointNetworkConfig
from synchuman.stage1.joint_network import JointNetwork
from synchuman.weights import keymaps

GIB = 1 << 30


def available_memory():
    """Bytes that programs can still have; the cache of files, which gives way, counts as free."""
    if Path("/proc/meminfo").exists():
        [line] = [x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable")]
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def build(golden):
    """The golden's network with its weights; built without memory first, so that weights exist once."""
    published = golden.meta["config"]
    config = JointNetworkConfig(
        widths=tuple(published["block_out_channels"]),
        heads=tuple(published["attention_head_dim"]),
        layers=published["layers_per_block"],
        prompt_width=published["cross_attention_dim"],
        class_width=published["projection_class_embeddings_input_dim"],
        structure=dataclasses.replace(
            JointNetworkConfig().structure,
            blocks=published["num_blocks"],
            mlp_ratio=published["mlp_ratio"],
            condition_width=published["cond_channels"],
        ),
    )
    with torch.device("meta"):
        network = JointNetwork(config)
    network.to_empty(device="cpu")
    axis = torch.arange(config.structure.grid)
    network.structure.pos_emb.copy_(
        position_embedding(torch.cartesian_prod(axis, axis, axis), config.structure.width)
    )
    names = {keymaps.rename(name, keymaps.JOINT_NETWORK): name for name in manifest("joint_network")}
    fill(network, names, golden.meta["weights_check"])
    return network.eval()


def record(network):
    """Collect outputs of modules under the reference's tap names."""
    names = {
        "t_embedder": "structure.t_embedder",
        **{f"blocks.{i}": f"structure.blocks.{i}" for i in range(len(network.structure.blocks))},
        **{f"dual_CrossAttblocks_SS.{i}": f"to_structure.{i}" for i in (0, 1)},
        **{f"dual_CrossAttblocks_MV.{i}": f"to_views.{i}" for i in (0, 1)},
        **{name: name for name in ("class_embedding", "conv_in", "mid_block")},
        **{f"{way}_blocks.{i}": f"{way}_blocks.{i}" for way in ("down", "up") for i in range(4)},
        **{f"down_blocks.0.{part}.0": f"down_blocks.0.{part}.0" for part in ("attentions", "resnets")},
    }
    taps = {}
    for tap, name in names.items():

        def keep(_module, _inputs, output, tap=f"tap.{tap}"):
            taps[tap] = output[0] if isinstance(output, tuple) else output

        network.get_submodule(name).register_forward_hook(keep)
    return taps


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "groups", "tolerance", "gigabytes"),
    [
        ("unet_thin", 1, 5e-5, 8),
        pytest.param("unet_full", 2, 1e-4, 20, marks=pytest.mark.huge),
    ],
)
def test_joint_network(name, groups, tolerance, gigabytes):
    """About 2 minutes for `unet_thin` and 15 for `unet_full` on two cores."""
    if available_memory() < gigabytes * GIB:
        pytest.skip(f"{name} needs {gigabytes} GiB of free memory")
    golden = Golden(name)
    shapes = golden.meta["inputs"]
    sample, prompts, labels, tokens, structure = (
        golden.input(key, *shapes[key])
        for key in ("sample", "encoder_hidden_states", "class_labels", "trellis_cond", "trellis_x")
    )
    network = build(golden)
    taps = record(network)
    with torch.inference_mode():
        views, volume = network(
            sample, torch.tensor(golden.meta["timestep"]), prompts, labels, structure, tokens
        )
    assert len(volume) == groups
    results = {"out.sample": views, "out.trellis": volume, **taps}
    golden.check_all(tolerance, {key: value for key, value in results.items() if key in golden.tensors})
