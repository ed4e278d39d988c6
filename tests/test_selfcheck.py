"""The view prompts' recipe, and what `selfcheck` finds in good and in spoilt weights."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from official_checkpoint import link, script, write_small
from safetensors.torch import load_file, save_file
from stage1_golden import Golden, manifest

from synchuman.selfcheck import check_networks
from synchuman.selfcheck_reference import REFERENCE, _compare
from synchuman.weights.checkpoint import WeightsError
from synchuman.weights.home import home
from synchuman.weights.prompts import (
    OTHER_SIZE,
    PROMPTS_FILE,
    check_prompts,
    keep_prompts,
    make_prompts,
    read_embeds,
    token_ids,
)
from synchuman.weights.random_rule import random_weight
from synchuman.weights.variants import make_own_prompts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCHUMAN_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("published"))


def text_encoder(folder: Path) -> Path:
    """A small one, saved as older versions of transformers did: with a counter among the weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(**sizes, hidden_act="gelu", vocab_size=49408)
    torch.manual_seed(1)
    state = CLIPTextModel(config).state_dict()
    state = {f"text_model.{name.removeprefix('text_model.')}": value.clone() for name, value in state.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    written = {**sizes, "hidden_act": "gelu", "vocab_size": 49408, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def test_prompts_follow_the_recipe(checkpoint: Path, tmp_path: Path) -> None:
    ids = token_ids()
    assert ids.shape == (2, 7, 77) and (ids[..., 0] == 49406).all()
    assert ((ids == 49407).sum(-1) == 1).all() and len(torch.unique(ids.flatten(0, 1), dim=0)) == 14
    # The two domains differ in one word alone, "normal" and "color".
    assert ((ids[0] != ids[1]).sum(-1) == 1).all()

    folder = link(checkpoint, tmp_path / "ck")
    (folder / "ckpts/OneStage" / PROMPTS_FILE).unlink()
    text_encoder(folder / "ckpts/OneStage/text_encoder")
    path, compared = make_own_prompts(folder)
    prompts = load_file(path)["view_prompts"]
    assert compared == OTHER_SIZE and path.is_relative_to(folder) and prompts.shape == (2, 7, 77, 32)
    assert make_own_prompts(folder)[0] == path
    # Causal: before the view is named, all sentences are one.
    assert (prompts[:, :, :9] == prompts[:1, :1, :9]).all() and (prompts[0, 0, 9] != prompts[0, 1, 10]).any()
    again = make_prompts(folder / "ckpts/OneStage/text_encoder")
    torch.testing.assert_close(again, prompts, rtol=0, atol=0)


def test_prompts_of_another_text_encoder_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"not its text encoder.*--embeds"):
        check_prompts(torch.zeros(2, 7, 77, 1024))


def test_prompts_of_the_published_code_are_read_as_weights(tmp_path: Path) -> None:
    halves = {name: torch.randn(7, 77, 1024).half() for name in ("normal", "clr")}
    for name, half in halves.items():
        torch.save(half, tmp_path / f"{name}_embeds.pt")
    prompts = read_embeds(tmp_path)
    torch.testing.assert_close(prompts, torch.stack([halves["normal"], halves["clr"]]), rtol=0, atol=0)
    assert keep_prompts(prompts, home()).is_file()
    torch.save(print, tmp_path / "clr_embeds.pt")
    with pytest.raises(WeightsError, match=r"clr_embeds\.pt cannot be read"):
        read_embeds(tmp_path)


def test_networks_are_checked_against_themselves_and_the_time_before(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = link(checkpoint, tmp_path / "ck")
    half = check_networks(folder, CPU, torch.bfloat16, only=("structure_decoder", "image_encoder"))
    assert len(half) == 2 and all(finding.passed and "0.0e+00" not in finding.says for finding in half), half
    first = check_networks(folder, CPU, torch.float32)
    assert len(first) == 8 and all(finding.passed for finding in first), first
    path = folder / "ckpts/SecondStage/ckpts/decoder_Mesh/model.safetensors"
    state = load_file(path)
    path.unlink()
    save_file({**state, "out_layer.weight": state["out_layer.weight"] * 1.1}, path)
    only = ("mesh_decoder", "structure_decoder")
    again = check_networks(folder, CPU, torch.float32, only=only)
    assert {finding.check: finding.passed for finding in again} == {only[0]: False, only[1]: True}, again


def test_a_network_that_gives_nan_fails(checkpoint: Path, tmp_path: Path) -> None:
    folder = link(checkpoint, tmp_path / "ck")
    path = folder / "ckpts/OneStage/sparse_structure_decoder/model.safetensors"
    state = load_file(path)
    path.unlink()
    save_file({**state, "out_layer.2.bias": torch.full_like(state["out_layer.2.bias"], torch.nan)}, path)
    found = {
        finding.check: finding
        for finding in check_networks(folder, CPU, torch.float32, only=("structure_decoder",))
    }
    assert found["structure_decoder"].passed is False and "NaN" in found["structure_decoder"].says


def test_reference_figures_are_those_of_the_golden_file() -> None:
    reference = json.loads(gzip.decompress(REFERENCE.read_bytes()))
    golden = Golden("unet_full")
    assert reference["names"] == sorted(manifest("joint_network"))
    assert reference["time"] == golden.meta["timestep"] and reference["inputs"] == golden.meta["inputs"]
    for part, tensor in (("views", "out.sample"), ("structure", "out.trellis")):
        stored = golden.tensors[tensor][::20]
        wanted = {**reference[part], "every": 1}
        name, passed, _ = _compare(part, stored, wanted, torch.float32)
        assert passed and name == part
        assert not _compare(part, stored * 1.01, wanted, torch.float32)[1]
        step = golden.meta["stored"][tensor]["flat_step"]
        assert reference[part]["every"] == 20 * step


def test_random_weights_follow_the_goldens_rule() -> None:
    from stage1_golden import published_weight

    for name, shape in (("a.gamma", (2, 3)), ("a.bias", (4,)), ("a.weight", (4, 3, 2)), ("n.weight", (5,))):
        torch.testing.assert_close(random_weight(name, shape), published_weight(name, shape), rtol=0, atol=0)
    assert script().SMALL is not script().PUBLISHED
