"""The published layout: sizes from its configs, weights under its names, errors that say the cure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_person
from official_checkpoint import link, script, write_small
from safetensors.torch import load_file, save_file

from synchuman.loading import Loaded, load_variant
from synchuman.stage1.networks import load_config
from synchuman.stage1.stage1 import Stage1Result
from synchuman.stage2.networks import load_stage2_config
from synchuman.stage2.stage2 import Stage2Result
from synchuman.weights import keymaps
from synchuman.weights.checkpoint import WeightsError
from synchuman.weights.published import PublishedFolder
from synchuman.weights.random_rule import random_weight
from synchuman.weights.variants import find_variant
from synchuman.weights.verify import verify

JOINT = "ckpts/OneStage/SyncHuman_2D3DCrossSpaceDiffusion"
DECODER = "ckpts/OneStage/sparse_structure_decoder/model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return load_variant(str(checkpoint), device="cpu", dtype="float32")


def test_sizes_come_from_the_published_configs(checkpoint: Path) -> None:
    assert load_config(checkpoint) == script().SMALL.stage1
    assert load_stage2_config(checkpoint) == script().SMALL.stage2
    assert load_config(checkpoint / "ckpts") == script().SMALL.stage1


def test_configs_of_the_published_size_read_as_our_defaults(tmp_path: Path) -> None:
    small, published = script().SMALL, script().PUBLISHED
    write_small(tmp_path)
    for network, config in script().published_configs(published).items():
        (PublishedFolder(tmp_path / "ckpts").folder(network) / "config.json").write_text(json.dumps(config))
    read = load_config(tmp_path)
    assert read == dataclasses.replace(published.stage1, preview_interval=read.preview_interval)
    assert load_stage2_config(tmp_path) == published.stage2 != small.stage2


def test_weights_are_the_published_ones_under_our_names(loaded: Loaded) -> None:
    joint = loaded.stage1.networks.joint_network.state_dict()
    for published in (
        "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight",
        "dual_CrossAttblocks_SS.1.output_layer_stucture.bias",
        "blocks.16.self_attn.q_rms_norm.gamma",
    ):
        ours = joint[keymaps.rename(published, keymaps.JOINT_NETWORK)]
        torch.testing.assert_close(ours, random_weight(published, ours.shape).half().float())
    encoder = loaded.stage1.networks.image_encoder.state_dict()
    ours = encoder["encoder.layer.23.attention.k_proj.weight"]
    published = "encoder.layer.23.attention.attention.key.weight"
    torch.testing.assert_close(ours, random_weight(published, ours.shape).half().float())


def test_16_bit_weights_on_the_cpu_are_mapped_not_copied(checkpoint: Path) -> None:
    path = PublishedFolder(checkpoint / "ckpts").weights("joint_network").path
    loaded = load_variant(str(checkpoint), device="cpu", dtype="float16")
    joint = loaded.stage1.networks.joint_network
    assert joint.conv_in.weight.dtype is torch.float16
    # Mapped tensors lie as far apart in memory as in the file.
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    places = {name: header[f"{name}.weight"]["data_offsets"][0] for name in ("conv_in", "conv_out")}
    apart = joint.conv_out.weight.data_ptr() - joint.conv_in.weight.data_ptr()
    assert apart == places["conv_out"] - places["conv_in"]
    assert loaded.stage2 is not None
    flow = loaded.stage2.networks.slat_flow
    assert flow.input_layer.weight.dtype is torch.float32
    assert next(flow.blocks.parameters()).dtype is torch.float16


def sample_stage1(loaded: Loaded) -> Stage1Result:
    *_, last = loaded.stage1.sample(draw_person(200), steps=1, guidance=1.0, seed=1)
    assert isinstance(last, Stage1Result)
    return last


def sample_stage2(loaded: Loaded, views: Stage1Result) -> Stage2Result:
    stage2 = loaded.stage2
    assert stage2 is not None
    config = stage2.config
    # A quarter of the published tokens per view: these tests have two cores.
    stage2.config = dataclasses.replace(config, views=dataclasses.replace(config.views, image_size=224))
    occupied = np.zeros((64, 64, 64), bool)
    occupied[30:34, 31:33, 28:36] = True
    try:
        *_, last = stage2.sample(
            views.colors, views.normals, draw_person(200), occupied, steps=1, guidance=1.0, seed=1
        )
    finally:
        stage2.config = config
    assert isinstance(last, Stage2Result)
    return last


def test_both_stages_run_resident_and_staged_alike(loaded: Loaded, checkpoint: Path) -> None:
    views = sample_stage1(loaded)
    assert views.colors.shape == (5, 192, 192, 3) and views.colors[1:].std() > 1
    assert views.structure_logits is not None and np.isfinite(views.structure_logits).all()
    fine = sample_stage2(loaded, views)
    assert fine.feats.shape == (64 * 64, 101) and fine.feats.isfinite().all()
    assert fine.gaussians is not None and fine.resolution == 256

    staged = load_variant(str(checkpoint), device="cpu", dtype="float32", placement="staged")
    again = sample_stage1(staged)
    np.testing.assert_array_equal(again.colors, views.colors)
    np.testing.assert_array_equal(again.structure_logits, views.structure_logits)
    torch.testing.assert_close(sample_stage2(staged, again).feats, fine.feats, rtol=0, atol=0)


def test_stage_2_on_another_device_has_an_encoder_of_its_own(checkpoint: Path) -> None:
    apart = load_variant(str(checkpoint), device="cpu", dtype="float32", stage2_device="cpu:0")
    assert apart.stage2 is not None
    first, second = apart.stage1.networks.image_encoder, apart.stage2.image_encoder
    assert first is not second and apart.stage1.residency is not apart.stage2.residency
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)


def replaced(checkpoint: Path, folder: Path, name: str) -> Path:
    path = link(checkpoint, folder) / name
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def test_a_missing_file_is_named_with_its_cure(checkpoint: Path, tmp_path: Path) -> None:
    folder = link(checkpoint, tmp_path)
    (folder / DECODER).unlink()
    with pytest.raises(FileNotFoundError, match=r"sparse_structure_decoder holds no weights.*weights pull"):
        load_variant(str(folder), device="cpu")
    (folder / JOINT / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing.*weights pull"):
        load_variant(str(folder), device="cpu")


def test_a_cut_off_file_is_named_with_its_cure(checkpoint: Path, tmp_path: Path) -> None:
    path = replaced(checkpoint, tmp_path, DECODER)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut off.*weights pull"):
        load_variant(str(tmp_path), device="cpu")
    bad = [file for file in verify(str(tmp_path), hashes=False) if file.problem is not None]
    assert [Path(file.name).parent.name for file in bad] == ["sparse_structure_decoder"]
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match="no safetensors file"):
        load_variant(str(tmp_path), device="cpu")


def test_weights_of_another_network_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = replaced(checkpoint, tmp_path, DECODER)
    state = load_file(path)
    state["blocks.0.conv1.weight"] = state["blocks.0.conv1.weight"][:4]
    state["blocks.99.bias"] = state.pop("out_layer.2.bias")
    save_file(state, path)
    with pytest.raises(WeightsError) as raised:
        load_variant(str(tmp_path), device="cpu")
    assert "1 missing" not in str(raised.value) and "2 missing (blocks.0.conv1.weight" in str(raised.value)
    assert "1 unexpected (blocks.99.bias)" in str(raised.value)
    assert "blocks.0.conv1.weight is [4, 16, 3, 3, 3], not [16, 16, 3, 3, 3]" in str(raised.value)


def test_a_config_of_another_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = replaced(checkpoint, tmp_path, f"{JOINT}/config.json")
    sizes = json.loads(path.read_text())
    path.write_text(json.dumps({**sizes, "num_views": 7}))
    with pytest.raises(WeightsError, match="num_views = 7"):
        load_config(tmp_path)
    del sizes["sample_size"]
    path.write_text(json.dumps(sizes))
    with pytest.raises(WeightsError, match=f"{JOINT} lacks sample_size"):
        load_config(tmp_path)
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is damaged"):
        load_config(tmp_path)


def test_shards_and_torchs_own_files_load_too(checkpoint: Path, tmp_path: Path) -> None:
    path = replaced(checkpoint, tmp_path, DECODER)
    state = load_file(path)
    names = sorted(state)
    path.unlink()
    halves = {f"model-{i}.safetensors": names[i::2] for i in range(2)}
    for name, part in halves.items():
        save_file({key: state[key] for key in part}, path.parent / name)
    index = {"weight_map": {key: name for name, part in halves.items() for key in part}}
    (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = load_variant(str(checkpoint), device="cpu").stage1.networks.structure_decoder
    assert expected is not None

    def check() -> None:
        got = load_variant(str(tmp_path), device="cpu").stage1.networks.structure_decoder
        assert got is not None
        for key, tensor in expected.state_dict().items():
            torch.testing.assert_close(got.state_dict()[key], tensor, rtol=0, atol=0)

    check()
    (path.parent / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-1\.safetensors is missing"):
        load_variant(str(tmp_path), device="cpu")
    (path.parent / "model.safetensors.index.json").unlink()
    torch.save(state, path.parent / "pytorch_model.bin")
    check()
    torch.save({"weights": print}, path.parent / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is no checkpoint"):
        load_variant(str(tmp_path), device="cpu")


def test_names_of_other_versions_of_the_libraries() -> None:
    old = "encoder.mid_block.attentions.0"
    renames = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    for theirs, ours in renames.items():
        assert keymaps.rename(f"{old}.{theirs}.bias", keymaps.AUTOENCODER) == f"{old}.{ours}.bias"
    assert keymaps.clip_names("vision_model.embeddings.position_ids") == ()
    fused = keymaps.encoder_names("blocks.3.attn.qkv.weight")
    assert fused == tuple(f"encoder.layer.3.attention.{part}_proj.weight" for part in "qkv")
    hub = keymaps.encoder_names("encoder.layer.3.attention.output.dense.bias")
    assert hub == ("encoder.layer.3.attention.o_proj.bias",)


def test_unknown_names_say_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing-here.*mini nor official"):
        find_variant("nothing-here")
    monkeypatch.setenv("SYNCHUMAN_HOME", str(tmp_path))
    assert find_variant("official") is None
