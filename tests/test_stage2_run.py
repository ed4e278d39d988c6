"""Stage 2 as a whole: saved, loaded, sampled and decoded at the sizes of mini, with random weights."""

import dataclasses
import json

import numpy as np
import pytest
import surface_person
import torch
from safetensors.torch import save_file

from synchuman.image_encoder import build_image_encoder
from synchuman.stage1.networks import build_networks, load_config, save_networks
from synchuman.stage1.variants import MINI as STAGE1_MINI
from synchuman.stage2 import stage2 as stage2_module
from synchuman.stage2.config import GaussianDecoderConfig, SlatNormalisation
from synchuman.stage2.networks import build_stage2, load_stage2, load_stage2_config, save_stage2
from synchuman.stage2.stage2 import Stage2, Stage2Result, Stage2Step
from synchuman.stage2.variants import MINI
from synchuman.training import train_slat_autoencoder, train_slat_flow
from synchuman.training.command import Leg
from synchuman.training.export import trained_stage2
from synchuman.training.loop import LoopConfig
from synchuman.training.train_slat_autoencoder import SlatAutoencoder

WITH_GAUSSIANS = dataclasses.replace(
    MINI, gaussian_decoder=GaussianDecoderConfig(trunk=MINI.mesh_decoder.trunk, per_voxel=4)
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_image_encoder(STAGE1_MINI.image_encoder).eval()


# Views an eighth as large as mini's for the encoder, for tests of what else counts.
GLANCE = dataclasses.replace(MINI, views=dataclasses.replace(MINI.views, image_size=112))


def sample(stage2, steps=2, guidance=1.5, seed=1, **changes):
    person = surface_person.make()
    inputs = {
        "colors": person.colors,
        "normals": person.normals,
        "rgba": person.photo,
        "occupied": person.logits > 0,
    }
    return list(stage2.sample(**{**inputs, **changes}, steps=steps, guidance=guidance, seed=seed))


@pytest.mark.parametrize("config", [MINI, WITH_GAUSSIANS], ids=["mesh", "gaussians"])
def test_save_and_load(config, tmp_path):
    networks = build_stage2(config, seed=3)
    save_stage2(networks, config, tmp_path, torch.float32)
    names = {"variant.json", "slat_flow.safetensors", "mesh_decoder.safetensors"}
    gaussians = {"gaussian_decoder.safetensors"} if config.gaussian_decoder else set()
    assert {path.name for path in tmp_path.iterdir()} == names | gaussians
    assert load_stage2_config(tmp_path) == config
    loaded = load_stage2(tmp_path, config).modules()
    for name, module in networks.modules().items():
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(loaded[name].state_dict()[key], tensor, rtol=0, atol=0)


def test_both_stages_share_a_folder(tmp_path):
    save_stage2(build_stage2(MINI), MINI, tmp_path)
    save_networks(build_networks(STAGE1_MINI), STAGE1_MINI, tmp_path, torch.float16)
    assert set(json.loads((tmp_path / "variant.json").read_text())) == {"stage1", "stage2"}
    assert load_config(tmp_path) == STAGE1_MINI and load_stage2_config(tmp_path) == MINI


def test_loading_is_strict(tmp_path, encoder):
    networks = build_stage2(MINI)
    save_stage2(networks, MINI, tmp_path)
    (tmp_path / "mesh_decoder.safetensors").replace(tmp_path / "slat_flow.safetensors")
    with pytest.raises(ValueError, match=r"slat_flow\.safetensors does not fit"):
        Stage2.load(tmp_path, encoder)
    save_stage2(networks, MINI, tmp_path)
    (tmp_path / "mesh_decoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="mesh_decoder"):
        Stage2.load(tmp_path, encoder)
    other = build_image_encoder(dataclasses.replace(STAGE1_MINI.image_encoder, width=96, heads=3))
    with pytest.raises(ValueError, match="image encoder of width 192"):
        Stage2(networks, MINI, other)


def test_a_variant_may_have_no_stage_2(tmp_path, encoder):
    save_networks(build_networks(STAGE1_MINI), STAGE1_MINI, tmp_path, torch.float16)
    assert Stage2.load(tmp_path, encoder) is None
    with pytest.raises(FileNotFoundError, match=r"variant\.json"):
        Stage2.load(tmp_path / "nowhere", encoder)


def test_steps_then_features_at_the_decoders_resolution(encoder):
    events = sample(Stage2(build_stage2(WITH_GAUSSIANS), WITH_GAUSSIANS, encoder), steps=3)
    assert events[:-1] == [Stage2Step(1, 3), Stage2Step(2, 3), Stage2Step(3, 3)]
    result = events[-1]
    assert isinstance(result, Stage2Result)
    occupied = surface_person.make().logits > 0
    assert result.resolution == 128 and result.coords.shape == (8 * occupied.sum(), 4)
    assert result.feats.shape == (len(result.coords), 101) and result.feats.dtype == torch.float32
    assert torch.isfinite(result.feats).all()
    parents = np.zeros_like(occupied)
    parents[tuple((result.coords[:, 1:] // 2).T.numpy())] = True
    assert np.array_equal(parents, occupied)
    assert result.gaussians is not None and len(result.gaussians) == 4 * occupied.sum()


def test_seed_guidance_and_photo_count(encoder):
    stage2 = Stage2(build_stage2(GLANCE, seed=5), GLANCE, encoder)
    # The gates of an untrained flow are closed: nothing would depend on the condition.
    generator = torch.Generator().manual_seed(0)
    for parameter in stage2.networks.slat_flow.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    feats = sample(stage2)[-1].feats
    assert torch.equal(sample(stage2)[-1].feats, feats)
    photo = surface_person.make().photo
    for change in ({"seed": 2}, {"guidance": 3.0}, {"rgba": np.flip(photo, 1).copy()}):
        assert not torch.equal(sample(stage2, **change)[-1].feats, feats), change
    assert sample(stage2)[-1].gaussians is None


def test_bfloat16_stays_near_float32(encoder):
    full, half = (
        sample(Stage2(build_stage2(GLANCE), GLANCE, encoder, dtype=dtype))[-1].feats
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()


def test_unusable_inputs_are_refused(encoder, monkeypatch):
    stage2 = Stage2(build_stage2(GLANCE), GLANCE, encoder)
    empty = np.zeros((64, 64, 64), bool)
    with pytest.raises(ValueError, match="No voxel is occupied"):
        sample(stage2, occupied=empty)
    with pytest.raises(ValueError, match="grid of 64"):
        sample(stage2, occupied=empty[:32])
    with pytest.raises(ValueError, match="at least 1"):
        sample(stage2, steps=0)
    monkeypatch.setattr(stage2_module, "MAX_VOXELS", 100)
    with pytest.raises(ValueError, match="more than the 100"):
        sample(stage2)


def test_what_was_trained_is_exported(tmp_path, encoder):
    autoencoder, flow = SlatAutoencoder(MINI), build_stage2(MINI, seed=4).slat_flow
    for module, name in ((autoencoder, train_slat_autoencoder.FOLDER), (flow, train_slat_flow.FOLDER)):
        (tmp_path / name).mkdir()
        save_file(module.state_dict(), tmp_path / name / "average.safetensors")
    measured = {"mean": [0.5] * 8, "std": [2.0] * 8}
    (tmp_path / train_slat_flow.FOLDER / train_slat_flow.NORMALISATION).write_text(json.dumps(measured))
    leg = Leg(tmp_path, tmp_path, torch.device("cpu"), None, None, LoopConfig())
    save_stage2(*trained_stage2(leg), tmp_path / "variant", torch.float32)
    loaded = Stage2.load(tmp_path / "variant", encoder)
    assert loaded.config.normalisation == SlatNormalisation((0.5,) * 8, (2.0,) * 8)
    for ours, theirs in (
        (loaded.networks.slat_flow, flow),
        (loaded.networks.mesh_decoder, autoencoder.decoder),
    ):
        for key, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=0, atol=0)
