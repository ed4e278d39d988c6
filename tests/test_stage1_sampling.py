"""Stage 1 from photo to views: the reference's whole run with toy networks, and mini with random weights."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stage1_golden import Golden
from torch import nn
from torch.nn import functional as F

from synchuman.nn.flow import schedule
from synchuman.stage1 import sampler
from synchuman.stage1.config import (
    ClipConfig,
    ImageEncoderConfig,
    JointNetworkConfig,
    JointSamplerConfig,
    Stage1Config,
    StructureFlowConfig,
)
from synchuman.stage1.layout import per_image, split
from synchuman.stage1.networks import Networks, build_networks
from synchuman.stage1.stage1 import Stage1, Stage1Result, Stage1Step
from synchuman.stage1.variants import MINI


def synthetic_photo(width, height, cx, cy, rx, ry, k):
    """The goldens' photo: integer arithmetic on pixel coordinates."""
    y, x = np.mgrid[:height, :width]
    d = ((x - cx) * 1000 // rx) ** 2 + ((y - cy) * 1000 // ry) ** 2
    alpha = np.clip((1200000 - d) // 800, 0, 255)
    red, green = (2 * x + y + 31 * k) % 256, (x + 3 * y + 17 * k) % 256
    blue = (x * x // 64 + y * y // 128 + 7 * k) % 256
    return np.stack([red, green, blue, alpha], axis=-1).astype(np.uint8)


class ToyClip(nn.Module):
    def forward(self, pixel_values):
        self.seen = pixel_values
        return SimpleNamespace(image_embeds=F.adaptive_avg_pool2d(pixel_values, 4).flatten(1))


class ToyAutoencoder(nn.Module):
    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.config = {"scaling_factor": 0.18215, "block_out_channels": (1, 1, 1, 1)}
        self.encoded, self.decoded = [], []

    def encode(self, images):
        self.encoded.append(images)
        pooled = F.avg_pool2d(images, 8)
        latents = torch.cat([pooled, pooled.mean(dim=1, keepdim=True)], dim=1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents):
        self.decoded.append(latents)
        return SimpleNamespace(sample=F.interpolate(0.5 * latents[:, :3], scale_factor=8))


class ToyTokens(nn.Module):
    config = SimpleNamespace(image_size=518)
    device, dtype = torch.device("cpu"), torch.float32

    def embeddings(self, pixels):
        return F.avg_pool2d(pixels, 74).flatten(2).transpose(1, 2)

    def encoder(self, tokens):
        return SimpleNamespace(last_hidden_state=tokens)


class ToyJoint(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare(self, prompts, labels, tokens):
        self.conditions = prompts, labels, tokens
        return self.conditions

    def step(self, sample, time, structure, conditions):
        prompts, labels, tokens = conditions
        self.calls.append((sample, time, structure))
        groups = len(structure)
        latents, images = sample[:, :4], sample[:, 4:]
        shape = (-1, 1, 1, 1)
        p, c = prompts.mean(dim=(1, 2)).view(shape), labels.mean(dim=1).view(shape)
        d = per_image(structure.mean(dim=(1, 2, 3, 4)), groups).view(shape)
        m = split(latents).mean(dim=(0, 2, 3, 4, 5)).view(-1, 1, 1, 1, 1)
        t = time.double()
        views = (
            0.5 * latents
            + 0.25 * images.roll(1, dims=1)
            + 0.4 * p
            + 0.3 * c
            + 0.2 * d
            + 0.1 * float((t / 100).sin())
        )
        cond = tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
        return views, 0.5 * structure + 0.3 * cond + 0.2 * m + 0.1 * float((t / 100).cos())


class ToyDecoder(nn.Module):
    def forward(self, latent):
        mixed = latent[:, :1] + 0.5 * latent[:, 1:2]
        self.latent = latent
        return F.interpolate(mixed, scale_factor=4, mode="trilinear", align_corners=False) - 0.3


def toy_stage1(golden):
    config = Stage1Config(
        prompt_length=1,
        joint_network=JointNetworkConfig(class_width=96, structure=StructureFlowConfig(condition_width=3)),
        image_encoder=ImageEncoderConfig(width=3),
        clip=ClipConfig(projection=48),
    )
    means = golden.tensors["out.step0.prompt_mean_std"][:, 0].reshape(2, 2, 5)[:, 0]
    prompts = torch.zeros(2, 7, 1, 1)
    prompts[:, [0, 2, 3, 4, 6], 0, 0] = means
    networks = Networks(ToyJoint(), ToyDecoder(), ToyAutoencoder(), ToyTokens(), prompts, ToyClip())
    return Stage1(networks, config)


def test_whole_run_golden():
    golden = Golden("pipeline_toy")
    meta = golden.meta
    stage1 = toy_stage1(golden)
    networks = stage1.networks
    photo = meta["photo"]
    rgba = synthetic_photo(photo["W"], photo["H"], *(photo[key] for key in ("cx", "cy", "rx", "ry", "k")))
    *steps, result = stage1.sample(rgba, meta["steps"], meta["guidance_scale"], meta["seed"])
    assert [step.step for step in steps] == list(range(1, meta["steps"] + 1))

    calls = networks.joint_network.calls
    _, labels, tokens = networks.joint_network.conditions
    order = [0, 0, 0, 0, 1] * 2
    golden.check_all(
        2e-5,
        {
            "out.clip_pixel_values": networks.clip.seen[order],
            "out.vae_in": torch.cat(networks.image_autoencoder.encoded)[order],
            "out.step0.class_labels": labels,
            "out.step0.cond3d": tokens,
        },
    )
    tensors = {"out.t2d": torch.stack([time for _, time, _ in calls])}
    tensors["out.t3d"] = tensors["out.t2d"].float()
    for index in (0, 1, 49):
        sample, _, structure = calls[index]
        tensors[f"out.step{index}.sample"] = sample
        tensors[f"out.step{index}.x3"] = structure.contiguous()
        statistics = torch.stack([sample.mean(dim=(2, 3)), sample.std(dim=(2, 3))], dim=-1)
        tensors[f"out.step{index}.sample_mean_std"] = statistics
    tensors["out.vae_decode_in"] = torch.cat(networks.image_autoencoder.decoded)
    tensors["out.structure_latent"] = networks.structure_decoder.latent
    golden.check_all(1e-5, tensors)

    sums = golden.tensors["out.png_sums"].double()
    for kind, images in (("color", result.colors), ("normal", result.normals)):
        for view, image in enumerate(images):
            expected = golden.tensors[f"out.png.{kind}_{view}"].numpy().astype(int)
            difference = np.abs(image[::16, ::16].astype(int) - expected)
            assert difference.max() <= 1, (kind, view)
            assert (difference > 0).mean() <= 0.005, (kind, view)
            row = meta["png_sums_order"].index(f"{kind}_{view}")
            values = torch.from_numpy(image.astype(np.float64))
            actual = torch.stack([values.sum(), values.square().sum()])
            torch.testing.assert_close(actual, sums[row], rtol=1e-4, atol=0)
    expected = np.unpackbits(golden.tensors["out.coords_packbits"].numpy()).reshape(64, 64, 64)
    assert np.count_nonzero((result.structure_logits > 0) != expected) <= 3


def test_schedule():
    times = schedule(50)
    assert times[0] == 1 and times[-1] == 0 and len(times) == 51
    assert times == sorted(times, reverse=True)
    assert times[25] == pytest.approx(3 * 0.5 / 2)


def test_guidance_and_layout():
    ten = torch.arange(10.0)[:, None]
    inputs = sampler.guided(
        sampler.Inputs(latents=ten + 1, prompts=ten, labels=ten + 1, tokens=torch.ones(1, 2, 3))
    )
    zero = [0.0] * 5
    assert inputs.latents.flatten().tolist() == [*zero, 1, 2, 3, 4, 5, *zero, 6, 7, 8, 9, 10]
    assert torch.equal(inputs.labels, inputs.latents)
    assert inputs.prompts.flatten().tolist() == [0, 1, 2, 3, 4] * 2 + [5, 6, 7, 8, 9] * 2
    assert inputs.tokens[0].abs().max() == 0 and inputs.tokens[1].min() == 1


def toy_velocity(calls):
    def velocity(batch, time, structure):
        calls.append(len(batch))
        return 0.3 * batch[:, :1] + batch[:, 1:], 0.5 * structure

    return velocity


def test_guidance_one_needs_no_unconditional_half():
    noise = sampler.draw_noise(5, (1, 2, 2), (1, 2, 2, 2), None)
    single = sampler.Inputs(torch.ones(10, 1, 2, 2), torch.zeros(10, 1, 1), None, torch.ones(1, 1, 1))
    times = schedule(4)
    one, two = [], []
    *_, alone = sampler.sample(toy_velocity(one), noise, single.latents, times, 1.0)
    *_, both = sampler.sample(toy_velocity(two), noise, sampler.guided(single).latents, times, 1.0)
    assert one == [10] * 4 and two == [20] * 4
    torch.testing.assert_close(alone.views, both.views)
    torch.testing.assert_close(alone.structure, both.structure)
    torch.testing.assert_close(alone.views, alone.views_estimate)  # the last step goes to t = 0


def test_structure_may_have_its_own_guidance():
    """A velocity that is 1 where there is a condition: each branch arrives at what its own guidance makes."""

    def velocity(batch, time, structure):
        told = batch[:, 1:]
        return told, told.reshape(2, 2, 40).mean(dim=(0, 2))[:, None, None, None, None].expand_as(structure)

    noise = sampler.Noise(torch.zeros(10, 1, 2, 4), torch.zeros(1, 1, 2, 2, 2))
    latents = sampler.guided(sampler.Inputs(torch.ones(10, 1, 2, 4), *[torch.zeros(10, 1, 1)] * 3)).latents
    for own, expected in ((None, 2.0), (3.0, 3.0)):
        *_, last = sampler.sample(velocity, noise, latents, schedule(4), 2.0, structure_guidance=own)
        torch.testing.assert_close(last.views, torch.full_like(last.views, -2.0))
        torch.testing.assert_close(last.structure, torch.full_like(last.structure, -expected))


@pytest.fixture(scope="module")
def mini():
    """Mini's sizes outside, thin networks inside: this is about what flows, not about speed."""
    config = dataclasses.replace(
        MINI,
        joint_network=dataclasses.replace(MINI.joint_network, widths=(32, 32, 32), heads=(1, 1, 1)),
        structure_decoder=dataclasses.replace(MINI.structure_decoder, channels=(16, 8, 8)),
        image_autoencoder=dataclasses.replace(MINI.image_autoencoder, widths=(8, 8, 8, 8)),
    )
    return Stage1(build_networks(config, seed=3), config)


def test_mini_end_to_end(mini):
    rgba = synthetic_photo(300, 420, 140, 215, 70, 180, 0)
    events = list(mini.sample(rgba, steps=2, guidance=2.0, seed=1, preview_every=1))
    *steps, result = events
    assert [type(step) for step in steps] == [Stage1Step] * 2 and isinstance(result, Stage1Result)
    assert [step.preview is not None for step in steps] == [True, False]
    colors, normals = steps[0].preview
    for images in (colors, normals, result.colors, result.normals):
        assert images.shape == (5, MINI.image_size, MINI.image_size, 3) and images.dtype == np.uint8
    assert result.structure_logits.shape == (64, 64, 64) and result.structure_logits.dtype == np.float32
    assert np.isfinite(result.structure_logits).all() and result.structure_logits.std() > 0
    third = MINI.image_size // 3
    assert (result.normals[0][:third, third : 2 * third] == result.normals[4][1::3, 1::3]).all()
    assert (result.colors[0][:, :2] == 255).all()  # the photo on white

    again = list(mini.sample(rgba, steps=2, guidance=2.0, seed=1))[-1]
    assert (again.colors == result.colors).all() and (again.structure_logits == result.structure_logits).all()
    other = list(mini.sample(rgba, steps=1, guidance=1.0, seed=2))[-1]
    assert (other.structure_logits != result.structure_logits).any()


def test_bad_arguments(mini):
    rgba = synthetic_photo(60, 80, 30, 40, 14, 36, 0)
    with pytest.raises(ValueError, match="RGBA"):
        next(mini.sample(rgba[..., :3], 2, 1.0, 0))
    with pytest.raises(ValueError, match="at least 1"):
        next(mini.sample(rgba, 0, 1.0, 0))
    with pytest.raises(ValueError, match="at least 1"):
        next(mini.sample(rgba, 1, 0.5, 0))


def test_noise_and_guidance_are_as_the_variant_says(mini, monkeypatch):
    said = JointSamplerConfig(views_noise=0.5, structure_noise=0.25, structure_guidance=3.0)
    plain = dataclasses.replace(mini.config, sampler=JointSamplerConfig())
    changed = Stage1(mini.networks, dataclasses.replace(mini.config, sampler=said))
    whole, part = Stage1(mini.networks, plain)._noise(4), changed._noise(4)
    assert torch.equal(part.views, 0.5 * whole.views) and torch.equal(part.structure, 0.25 * whole.structure)
    scales, steps = [], sampler.sample

    def spy(*start):
        scales.append((start[4], start[6]))
        return steps(*start)

    monkeypatch.setattr(sampler, "sample", spy)
    for stage1 in (Stage1(mini.networks, plain), changed):
        list(stage1.sample(synthetic_photo(300, 420, 140, 215, 70, 180, 0), 1, 2.0, 1))
    assert scales == [(2.0, None), (2.0, 3.0)]
