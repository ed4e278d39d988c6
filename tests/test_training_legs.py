"""Trainers, metrics and baselines: resuming, losses that reach every part, figures that are right."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
import trimesh
from torch import nn

from synchuman.stage1.variants import MINI
from synchuman.training.baselines import fit_to_front, hull_of_front
from synchuman.training.checkpoints import load_average
from synchuman.training.image_tokens import ImageTokens
from synchuman.training.loop import LoopConfig, train
from synchuman.training.metrics import intersection_over_union, psnr, sample_surface, surface_errors
from synchuman.training.people_data import People, on_white, to_unit, unpack_structure
from synchuman.training.train_image_encoder import (
    TokensToPerson,
    cut_images,
    cut_outs,
    cut_volume,
    encoder_loss,
)
from synchuman.training.train_joint import JointTraining, joint_loss
from synchuman.training.train_structure_autoencoder import (
    StructureAutoencoder,
    normalise_latents,
    random_crop,
    structure_loss,
)

CPU = torch.device("cpu")


def line_loss(module, batch, generator):
    return {"loss": ((module(batch["x"]) - 3 * batch["x"]) ** 2).mean()}


def line_batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield {"x": torch.randn(16, 1, generator=generator)}


def test_training_learns_and_resumes_where_it_stopped(tmp_path):
    config = LoopConfig(minutes=5, max_steps=40, learning_rate=0.3, warmup=5, ema=0.9)
    train(nn.Linear(1, 1), line_batches(), line_loss, tmp_path, config, CPU)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 40
    first = nn.Linear(1, 1)
    load_average(first, tmp_path)

    longer = dataclasses.replace(config, max_steps=200)
    train(nn.Linear(1, 1), line_batches(), line_loss, tmp_path, longer, CPU)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 200
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(20, 201, 20))
    last = nn.Linear(1, 1)
    load_average(last, tmp_path)
    assert abs(last.weight.item() - 3) < min(0.1, abs(first.weight.item() - 3))
    (tmp_path / "optimizer.safetensors").unlink()
    (tmp_path / "weights.safetensors").unlink()
    train(
        nn.Linear(1, 1), line_batches(), line_loss, tmp_path, dataclasses.replace(config, max_steps=210), CPU
    )
    again = nn.Linear(1, 1)
    load_average(again, tmp_path)
    assert abs(again.weight.item() - 3) < 0.3


def test_training_stops_at_its_deadline(tmp_path):
    config = LoopConfig(minutes=5, deadline=time.time() + 0.5)
    started = time.monotonic()
    train(nn.Linear(1, 1), line_batches(), line_loss, tmp_path, config, CPU)
    assert 0.2 < time.monotonic() - started < 5
    steps = json.loads((tmp_path / "state.json").read_text())["step"]
    assert steps > 0
    train(nn.Linear(1, 1), line_batches(), line_loss, tmp_path, config, CPU)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == steps


def test_untrained_leg_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"docs/training\.md"):
        load_average(nn.Linear(1, 1), tmp_path)


def test_people_are_read_back(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"people\.generate"):
        People(tmp_path)
    rng = np.random.default_rng(0)
    occupancy = rng.random((5, 64, 64, 64)) < 0.02
    shard = {
        "colors": rng.integers(0, 256, (5, 5, 12, 12, 3), dtype=np.uint8),
        "normals": rng.integers(0, 256, (5, 5, 12, 12, 3), dtype=np.uint8),
        "structure": np.stack([np.packbits(o.ravel()) for o in occupancy]),
        "canvas": rng.integers(0, 256, (5, 12, 12, 4), dtype=np.uint8),
        "face": rng.integers(0, 256, (5, 12, 12, 4), dtype=np.uint8),
        "token": rng.integers(0, 256, (5, 14, 14, 3), dtype=np.uint8),
    }
    np.savez(tmp_path / "people-000000000-5-12.npz", **shard)
    people = People(tmp_path, limit=4)
    assert len(people) == 4
    assert np.array_equal(unpack_structure(people.tensors["structure"])[:, 0].numpy() > 0, occupancy[:4])
    assert next(people.batches(3, seed=0))["colors"].shape == (3, 5, 12, 12, 3)
    assert set(People(tmp_path, keys=("face",)).tensors) == {"face"}


def test_images_for_the_networks():
    rgba = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    rgba[..., :2, 3] = 255
    flat = on_white(rgba)
    assert flat[..., :2, :].max() == 0 and flat[..., 2:, :].min() == 255
    unit = to_unit(flat, 2)
    assert unit.shape == (1, 3, 2, 2)
    assert torch.equal(unit[0, 0], torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]))


@pytest.fixture(scope="module")
def ball():
    axis = (torch.arange(64) + 0.5) / 64 - 0.5
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    return ((distance - 0.3).abs() < 0.012)[None, None].float()


def test_normalised_latents_decode_to_the_same(ball):
    torch.manual_seed(0)
    module = StructureAutoencoder().eval()
    with torch.no_grad():
        before = module.decoder(module.encoder(ball)[0])
        normalise_latents(module, ball)
        latents, _ = module.encoder(ball)
        after = module.decoder(latents)
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(8), atol=1e-3)
    assert torch.allclose(before, after, atol=1e-4 * before.abs().max().item())


def test_structure_loss_reaches_every_weight(ball):
    generator = torch.Generator().manual_seed(0)
    assert random_crop(ball, generator).shape == (1, 1, 32, 32, 64)
    packed = torch.from_numpy(np.packbits(ball.numpy().astype(bool).ravel()))[None]
    module = StructureAutoencoder()
    terms = structure_loss(module, {"structure": packed}, generator)
    terms["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_encoder_loss_reaches_every_weight():
    torch.manual_seed(0)
    size, side = MINI.image_size, MINI.image_encoder.image_size
    batch = {
        "colors": torch.randint(0, 256, (2, 5, size, size, 3), dtype=torch.uint8),
        "normals": torch.randint(0, 256, (2, 5, size, size, 3), dtype=torch.uint8),
        "structure": torch.randint(0, 256, (2, 64**3 // 8), dtype=torch.uint8),
        "token": torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8),
    }
    module = TokensToPerson()
    encoder_loss(module, batch, torch.Generator().manual_seed(0))["loss"].backward()
    unused = {
        "encoder.model.embeddings.mask_token",
        "encoder.model.layernorm.weight",
        "encoder.model.layernorm.bias",
    }
    without = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without <= unused


def test_cut_outs_show_what_they_ask_for():
    size = MINI.image_size
    images = torch.arange(10, dtype=torch.uint8).mul(20).view(1, 10, 1, 1, 1).expand(3, 10, size, size, 3)
    seen, shown = cut_outs(images, torch.Generator().manual_seed(0))
    colors, normals = ((shown[..., part] + 1) * 127.5 for part in (slice(0, 3), slice(3, 6)))
    assert torch.allclose(normals - colors, torch.tensor(100.0), atol=1e-3)
    flat = seen.float().flatten(1)
    assert (flat.amax(1) == flat.amin(1)).all()
    assert all(
        s in (c.round(), n.round())
        for s, c, n in zip(flat[:, 0], colors[:, 0, 0, 0, 0], normals[:, 0, 0, 0, 0])
    )


def test_tokens_are_cut_in_order():
    volume = torch.arange(4**3).view(1, 4, 4, 4)
    assert cut_volume(volume, 2)[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    image = torch.arange(16).view(1, 1, 4, 4, 1)
    assert cut_images(image, 2)[0, 1].tolist() == [2, 3, 6, 7]


def test_joint_loss_reaches_network_and_prompts_but_not_the_encoder():
    torch.manual_seed(0)
    module = JointTraining(ImageTokens(MINI.image_encoder))
    size = MINI.joint_network.latent_size
    side = MINI.image_encoder.image_size
    batch = {
        "views": torch.randn(2, 10, 4, size, size),
        "condition": torch.randn(2, 2, 4, size, size),
        "structure": torch.randn(2, 8, 16, 16, 16),
        "token": torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8),
    }
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):  # zero-initialised outputs let gradients through only after a step
        optimizer.zero_grad()
        terms = joint_loss(module, batch, torch.Generator().manual_seed(1))
        terms["loss"].backward()
        optimizer.step()
    assert set(terms) == {"loss", "normals", "colors", "face", "structure"}
    for part in (module.network.structure, module.network.to_views):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in module.encoder.parameters())
    assert module.prompts.grad is not None and module.prompts.grad.abs().sum() > 0


def test_surface_errors_of_a_grown_ball():
    rng = np.random.default_rng(0)
    ball, grown = trimesh.creation.icosphere(4, 0.4), trimesh.creation.icosphere(4, 0.42)
    truth = sample_surface(ball.vertices, ball.faces, 20_000, rng)
    guess = sample_surface(grown.vertices, grown.faces, 20_000, rng)
    errors = surface_errors(*guess, *truth, height=0.8)
    # 0.02 of a height of 0.8 is 4.25 cm at 1.7 m; the gaps between samples add a little.
    assert errors["chamfer_cm"] == pytest.approx(4.3, rel=0.05)
    assert errors["p2s_cm"] == pytest.approx(4.3, rel=0.05)
    assert errors["normal_consistency"] > 0.99
    assert errors["chamfer_aligned_cm"] == pytest.approx(errors["chamfer_cm"], rel=0.02)  # the size stays
    flipped = surface_errors(guess[0], -guess[1], *truth, height=0.8)
    assert flipped["normal_consistency"] < -0.99


def test_aligned_error_forgets_how_a_body_is_turned_and_where_it_stands():
    rng = np.random.default_rng(0)
    box = trimesh.creation.box((0.4, 0.2, 0.9))
    truth = sample_surface(box.vertices, box.faces, 20_000, rng)
    same = surface_errors(*sample_surface(box.vertices, box.faces, 20_000, rng), *truth, height=0.9)
    box.apply_transform(trimesh.transformations.euler_matrix(0.05, 0.04, 0.03))
    box.apply_translation((0.02, -0.01, 0.0))
    moved = surface_errors(*sample_surface(box.vertices, box.faces, 20_000, rng), *truth, height=0.9)
    assert moved["chamfer_cm"] > same["chamfer_cm"] + 1
    assert moved["chamfer_aligned_cm"] == pytest.approx(same["chamfer_aligned_cm"], abs=0.03)


def test_small_metrics():
    a, b = np.zeros(8, bool), np.zeros(8, bool)
    a[:4], b[2:6] = True, True
    assert intersection_over_union(a, b) == pytest.approx(2 / 6)
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5), abs=1e-6)


def test_baselines_fill_the_silhouette():
    mask = np.zeros((96, 96), bool)
    mask[4:92, 30:60] = True
    vertices, faces = hull_of_front(mask)
    assert trimesh.Trimesh(vertices, faces).volume == pytest.approx(88 / 96 * 30 / 96 * 0.2, rel=0.05)
    low, high = vertices.min(0), vertices.max(0)
    assert low[0] == pytest.approx(30 / 96 - 0.5, abs=0.01) and high[2] == pytest.approx(
        0.5 - 4 / 96, abs=0.01
    )
    capsule = trimesh.creation.capsule(2, 0.5)
    fitted = fit_to_front(capsule.vertices, capsule.faces, mask)
    assert fitted[:, 0].min() == pytest.approx(30 / 96 - 0.5) and fitted[:, 2].max() == pytest.approx(
        0.5 - 4 / 96
    )
    with pytest.raises(ValueError, match="empty"):
        hull_of_front(np.zeros((8, 8), bool))
