"""The joint network and the encoders as a whole: published names, batch layout, training, saving, loading."""

import dataclasses
import json

import pytest
import torch
from stage1_golden import FIXTURES, Golden, manifest, published_weight

from synchuman.configs import from_dict, to_dict
from synchuman.image_encoder import ImageEncoderConfig, build_image_encoder, encode_tokens
from synchuman.stage1.conditioning import class_labels, select_prompts
from synchuman.stage1.config import JointNetworkConfig, StructureDecoderConfig
from synchuman.stage1.joint_network import JointNetwork, count_parameters
from synchuman.stage1.layout import per_image, split
from synchuman.stage1.networks import build_networks
from synchuman.stage1.stage1 import Stage1
from synchuman.stage1.structure_decoder import StructureDecoder
from synchuman.stage1.variants import MINI, PUBLISHED
from synchuman.weights import keymaps

SMALL = dataclasses.replace(
    MINI.joint_network,
    latent_size=24,
    widths=(16, 16, 32),
    heads=(1, 1, 2),
    norm_groups=4,
    prompt_width=8,
    structure=dataclasses.replace(
        MINI.joint_network.structure, width=32, heads=2, blocks=3, slices=(1, 2), condition_width=12
    ),
    sync=dataclasses.replace(MINI.joint_network.sync, heads=2, head_width=8),
)


def randomised(network):
    """Give every parameter a value, those that start at zero as well."""
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def inputs(config, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    size, flow = config.latent_size, config.structure
    return {
        "sample": random(10 * groups, config.in_channels, size, size),
        "times": 1000 * torch.rand(groups, generator=generator),
        "prompts": random(10 * groups, 4, config.prompt_width),
        "labels": None if config.class_width is None else random(10 * groups, config.class_width),
        "structure": random(groups, flow.channels, *(flow.resolution,) * 3),
        "tokens": random(groups, 6, flow.condition_width),
    }


@pytest.mark.parametrize(
    ("network", "build"),
    [
        ("joint_network", lambda: JointNetwork(JointNetworkConfig())),
        ("structure_decoder", lambda: StructureDecoder(StructureDecoderConfig())),
    ],
)
def test_published_names_and_shapes(network, build):
    with torch.device("meta"):
        state = build().state_dict()
    renames = keymaps.JOINT_NETWORK if network == "joint_network" else keymaps.STRUCTURE_DECODER
    expected = keymaps.rename_all(
        {k: torch.empty(v, device="meta") for k, v in manifest(network).items()}, renames
    )
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert {v.dtype for v in state.values()} == {torch.float32}


def test_published_image_encoder_names_and_shapes():
    with torch.device("meta"):
        model = build_image_encoder(PUBLISHED.image_encoder)
        published = {name: torch.empty(shape) for name, shape in manifest("dinov2_vitl14_reg").items()}
    ours = keymaps.dinov2(published)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in keymaps.to_dinov2(ours).items()} == {
        k: v.shape for k, v in published.items()
    }


def test_image_encoder_golden():
    golden = Golden("dino_tiny")
    config = golden.meta["config"]
    size = config["img_size"]
    model = build_image_encoder(
        ImageEncoderConfig(
            config["embed_dim"], config["depth"], config["num_heads"], config["patch_size"], size
        )
    )
    state = {name: published_weight(name, shape) for name, shape in golden.meta["keys"].items()}
    model.load_state_dict(keymaps.dinov2(state), strict=True)
    model.eval()
    with torch.no_grad():
        native, larger = golden.tensors["in.native"], golden.tensors["in.larger"]
        prenorm = model.encoder(model.embeddings(native)).last_hidden_state
        layers = model(larger, output_hidden_states=True).hidden_states
        picked = [model.layernorm(layers[layer + 1])[:, 1 + 4 :] for layer in golden.meta["layers"]]
        patches = torch.empty(1, 1 + 81, config["embed_dim"])
        golden.check_all(
            1e-5,
            {
                "out.native.x_prenorm": prenorm,
                "out.native.cond": encode_tokens(model, native),
                "out.larger.pos_embed": model.embeddings.interpolate_pos_encoding(patches, 126, 126),
                "out.larger.layers": torch.cat(picked, dim=-1),
            },
        )


@pytest.mark.parametrize("size", [24, 36])
def test_groups_do_not_see_each_other(size):
    config = dataclasses.replace(SMALL, latent_size=size)
    network = randomised(JointNetwork(config)).eval()
    batch = inputs(config, groups=3)
    with torch.no_grad():
        views, structure = network(**batch)
        for group in range(3):
            alone = {
                "times": batch["times"][group : group + 1],
                "structure": batch["structure"][group : group + 1],
                "tokens": batch["tokens"][group : group + 1],
                "labels": None,
                **{key: split(batch[key])[:, group].flatten(0, 1) for key in ("sample", "prompts")},
            }
            views_alone, structure_alone = network(**alone)
            torch.testing.assert_close(
                split(views)[:, group].flatten(0, 1), views_alone, rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(structure[group : group + 1], structure_alone, rtol=1e-4, atol=1e-4)


def test_both_branches_reach_each_other():
    network = randomised(JointNetwork(SMALL)).eval()
    batch = inputs(SMALL, groups=1)
    with torch.no_grad():
        views, structure = network(**batch)
        moved = {**batch, "structure": batch["structure"] + 1}
        assert (network(**moved)[0] - views).abs().max() > 1e-4
        moved = {**batch, "sample": batch["sample"] + 1}
        assert (network(**moved)[1] - structure).abs().max() > 1e-4


def test_every_parameter_is_trained():
    network = randomised(JointNetwork(dataclasses.replace(SMALL, class_width=6)))
    views, structure = network(**inputs(network.config, groups=2))
    (views.square().mean() + structure.square().mean()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()]


def test_conditions_can_be_prepared_once():
    network = randomised(JointNetwork(SMALL)).eval()
    batch = inputs(SMALL, groups=2)
    with torch.no_grad():
        expected = network(**batch)
        conditions = network.prepare(batch["prompts"], batch["labels"], batch["tokens"])
        actual = network.step(batch["sample"], batch["times"], batch["structure"], conditions)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_one_time_serves_all_groups():
    network = randomised(JointNetwork(SMALL)).eval()
    batch = inputs(SMALL, groups=2)
    with torch.no_grad():
        expected = network(**{**batch, "times": torch.full((2,), 300.0)})
        actual = network(**{**batch, "times": torch.tensor(300.0, dtype=torch.float64)})
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_size": 32}, "multiple of 3"),
        ({"latent_size": 27}, "must halve"),
        ({"heads": (1, 1)}, "equal lengths"),
        ({"norm_groups": 5}, "norm_groups"),
        ({"sync": dataclasses.replace(SMALL.sync, to_structure_after=1)}, "before to_views_after"),
        ({"sync": dataclasses.replace(SMALL.sync, to_views_after=2)}, "before the last"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": torch.zeros(15, 8, 24, 24)}, "multiple of 10"),
        ({"sample": torch.zeros(10, 4, 24, 24)}, "sample must be"),
        ({"structure": torch.zeros(2, 8, 16, 16, 16)}, "groups of images"),
        ({"structure": torch.zeros(1, 8, 8, 8, 8)}, "structure must be"),
        ({"times": torch.zeros(3)}, "times must be"),
        ({"labels": torch.zeros(10, 4)}, "Class labels"),
    ],
)
def test_bad_batches_are_refused(change, message):
    network = JointNetwork(SMALL)
    with pytest.raises(ValueError, match=message):
        network(**{**inputs(SMALL, groups=1), **change})


def test_configs_survive_json():
    for config in (MINI, PUBLISHED):
        assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match="unknown"):
        from_dict(StructureDecoderConfig, {**to_dict(StructureDecoderConfig()), "colour": 1})


def test_mini_is_small():
    with torch.device("meta"):
        assert count_parameters(JointNetwork(MINI.joint_network)) <= 18e6


def test_save_and_load(tmp_path):
    networks = build_networks(MINI, seed=1)
    networks.image_autoencoder.register_to_config(scaling_factor=0.7)
    Stage1(networks, MINI).save(tmp_path, dtype=torch.float32)
    loaded = Stage1.load(tmp_path)
    assert loaded.config.image_autoencoder.scaling == 0.7
    assert loaded.networks.image_autoencoder.config.scaling_factor == 0.7
    for name, module in networks.modules().items():
        ours = loaded.networks.modules()[name].state_dict()
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=0)
    torch.testing.assert_close(loaded.networks.view_prompts, networks.view_prompts)
    (tmp_path / "structure_decoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="structure_decoder"):
        Stage1.load(tmp_path)


def test_labels_and_prompts():
    labels = class_labels(torch.full((2, 6), 3.0))
    assert labels.tolist() == [[3.0] * 6 + [1.0] * 3 + [0.0] * 3] * 2
    prompts = torch.arange(14.0).reshape(2, 7, 1, 1)
    assert select_prompts(prompts).flatten().tolist() == [0, 2, 3, 4, 6, 7, 9, 10, 11, 13]
    assert (
        per_image(torch.tensor([[1.0], [2.0]]), 2).flatten().tolist()
        == [1.0] * 5 + [2.0] * 5 + [1.0] * 5 + [2.0] * 5
    )


def test_fixtures_are_small():
    assert sum(path.stat().st_size for path in FIXTURES.glob("stage1_*")) < 3_000_000
