"""Trainers of Stage 2 on balls: data, losses against the extraction, the decoder's ball, the flow."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from surface_balls import COLOR, ball_targets, write_balls

from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage1.variants import MINI as STAGE1
from synchuman.stage2.conditioning import view_tokens
from synchuman.stage2.config import (
    DecoderTrunkConfig,
    MeshDecoderConfig,
    SlatFlowConfig,
    Stage2Config,
    ViewTokensConfig,
)
from synchuman.surface.cleaning import drop_floaters
from synchuman.surface.flexicubes import extract
from synchuman.surface.voxel_field import COLOR as COLOR_COLUMNS
from synchuman.surface.voxel_field import FEATURES, SDF, average_field
from synchuman.training import train_slat_autoencoder, train_slat_flow
from synchuman.training.command import Leg
from synchuman.training.image_tokens import ImageTokens
from synchuman.training.loop import LoopConfig
from synchuman.training.slat_encoder import measure_normalisation
from synchuman.training.surface_data import SurfacePeople
from synchuman.training.surface_losses import group, surface_losses
from synchuman.training.train_image_encoder import load_image_encoder
from synchuman.training.true_views import true_view_tokens

CPU = torch.device("cpu")
BALLS = [((40.0, 64.0, 80.0), 7.0), ((70.3, 61.2, 50.6), 9.4)]


class TinyStage1:
    """What the trainers ask of Stage 1: the image encoder's sizes and the views'."""

    image_size = 14
    image_encoder = type(STAGE1.image_encoder)(width=24, depth=2, heads=2, image_size=28, mlp_ratio=2)


TINY = Stage2Config(
    flow=SlatFlowConfig(
        width=48, condition_width=24, heads=2, blocks=2, mlp_ratio=2.0, io_widths=(32,), io_blocks=2
    ),
    views=ViewTokensConfig(view_size=28, image_size=28, encoder_width=24, layers=(0, 1)),
    mesh_decoder=MeshDecoderConfig(
        trunk=DecoderTrunkConfig(
            width=48, heads=2, blocks=2, mlp_ratio=2.0, view_width=8, view_hidden_ratio=1.0
        ),
        widths=(32,),
        norm_groups=8,
    ),
    gaussian_decoder=None,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A leg with balls, a frozen image encoder and a trained autoencoder."""
    folder = tmp_path_factory.mktemp("stage2")
    write_balls(folder, BALLS)
    torch.manual_seed(0)
    encoder = ImageTokens(TinyStage1.image_encoder)
    (folder / "image-encoder").mkdir()
    weights = {f"encoder.{k}": v.contiguous() for k, v in encoder.state_dict().items()}
    save_file(weights, folder / "image-encoder" / "average.safetensors")
    loop = LoopConfig(minutes=5, max_steps=60, learning_rate=8e-3, warmup=10, ema=0.9)
    leg = Leg(folder, folder, CPU, 2, None, loop)
    train_slat_autoencoder.run(leg, TINY, TinyStage1)
    return leg


def log_of(leg, name):
    return [json.loads(line) for line in (leg.out / name / "log.jsonl").read_text().splitlines()]


def exact_feats(center, radius, voxels):
    """Raw features that describe a ball exactly."""
    corners = torch.tensor([[k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)])
    cells = voxels.subdivided().coords[:, 1:]
    distance = (cells[:, None] + corners - torch.tensor(center)).norm(dim=-1) - radius
    feats = torch.zeros(len(cells), FEATURES)
    feats[:, SDF] = distance + 1 / 128
    color = torch.logit(torch.from_numpy(COLOR) / 255).float()
    feats[:, COLOR_COLUMNS] = torch.cat([color, torch.zeros(3)]).repeat(8)
    return feats


def test_people_are_read_with_their_targets(tmp_path):
    with pytest.raises(FileNotFoundError, match="--surface"):
        SurfacePeople(tmp_path)
    write_balls(tmp_path, BALLS)
    write_balls(tmp_path, [((64.0, 64.0, 64.0), 5.0)], first=2)
    people = SurfacePeople(tmp_path)
    assert len(people) == 3 and len(SurfacePeople(tmp_path, limit=2)) == 2

    exact = people.take(torch.tensor([2, 0]))
    sizes = torch.bincount(exact["coords"][:, 0])
    for sample, (center, radius) in enumerate([((64.0, 64.0, 64.0), 5.0), BALLS[0]]):
        truth = ball_targets(np.array(center), radius)
        assert sizes[sample] == truth["occupied"].sum()
        mine = exact["coords"][:, 0] == sample
        assert np.array_equal(exact["coords"][mine, 1:].numpy(), truth["voxels"][truth["occupied"]])
        assert np.array_equal(exact["sdf"][mine].numpy(), truth["sdf"][truth["occupied"]])
    assert torch.equal(exact["token"], people.images["token"][[2, 0]])

    counts = people.starts.diff()
    seen = []
    for _, batch in zip(range(20), people.batches(3, seed=0), strict=False):
        Voxels.of(batch["coords"], 3)
        seen.append(len(batch["coords"]))
    occupied = int(people.targets["occupied"].sum())
    assert len(set(seen)) > 10
    assert 0.97 * occupied <= min(seen) and max(seen) <= occupied + 0.6 * (int(counts.sum()) - occupied)
    with pytest.raises(ValueError, match="too few"):
        next(people.batches(4, seed=0))


def test_shards_of_other_people_are_refused(tmp_path):
    write_balls(tmp_path, BALLS)
    path = tmp_path / "people-000000000-2-28.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"seeds": arrays["seeds"] + 1})
    with pytest.raises(ValueError, match="different people"):
        SurfacePeople(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="No surface targets"):
        SurfacePeople(tmp_path)


def test_exact_features_have_no_loss_and_group_as_the_extraction(tmp_path):
    write_balls(tmp_path, BALLS)
    batch = SurfacePeople(tmp_path).take(torch.tensor([0, 1]))
    voxels = Voxels.of(batch["coords"])
    parts = [
        Voxels.of(torch.nn.functional.pad(batch["coords"][batch["coords"][:, 0] == b, 1:], (1, 0)))
        for b in (0, 1)
    ]
    feats = torch.cat([exact_feats(*BALLS[b], parts[b]) for b in (0, 1)])
    # Beyond the clamp of two cells the targets stop growing.
    feats[:, SDF] = (feats[:, SDF] - 1 / 128).clamp(-2, 2) + 1 / 128
    terms = surface_losses(feats, voxels, batch, 128)
    assert terms["sdf"] < 1e-4 and terms["wrong"] < 0.01  # zeros round either way
    assert terms["distance"] < 0.03  # the sphere is not flat within a cell
    assert surface_losses(feats + 0.5, voxels, batch, 128)["distance"] == pytest.approx(0.5, abs=0.03)

    noise = torch.randn(len(feats), FEATURES, generator=torch.Generator().manual_seed(0))
    grouping = group(voxels, 128)
    ours = grouping.spread(noise[:, SDF, None])[:, 0] / grouping.count - 1 / 128
    rows = 8 * voxels.sizes[0]
    for mine, part, values in (
        (slice(0, rows), parts[0], noise[:rows]),
        (slice(rows, None), parts[1], noise[rows:]),
    ):
        field = average_field(part.subdivided().coords, values, 128)
        vertices = torch.unique(grouping.corners[mine])
        assert torch.allclose(ours[vertices], field.sdf, atol=1e-5)


def test_view_tokens_are_those_of_the_pipeline(trained):
    encoder = load_image_encoder(trained, TinyStage1.image_encoder)
    images = torch.randint(0, 256, (2, 2, 5, 28, 28, 3), dtype=torch.uint8)
    ours = true_view_tokens(encoder, images[0], images[1], TINY.views)
    one = view_tokens(images[0, 1].numpy(), images[1, 1].numpy(), TINY.views, encoder.model)
    assert torch.allclose(ours.color[1:], one.color, atol=1e-5)
    assert torch.allclose(ours.normal[1:], one.normal, atol=1e-5)


def test_autoencoder_learns_the_balls(trained):
    log = log_of(trained, train_slat_autoencoder.FOLDER)
    assert log[-1]["loss"] < 0.4 * log[0]["loss"]
    assert log[-1]["sdf"] < 0.2 * log[0]["sdf"] and log[-1]["color"] < 0.5 * log[0]["color"]

    module = train_slat_autoencoder.load_slat_autoencoder(trained, TINY)
    people = SurfacePeople(trained.people)
    batch = people.take(torch.tensor([0, 1]))
    voxels = Voxels.of(batch["coords"])
    encoder = load_image_encoder(trained, TinyStage1.image_encoder)
    with torch.no_grad():
        views = true_view_tokens(encoder, batch["colors"], batch["normals"], TINY.views)
        slat = SparseTensor(module.encoder.encode(batch, voxels), voxels)
        decoded = module.decoder(slat, views)
    for sample, (center, radius) in enumerate(BALLS):
        mine = decoded.voxels.coords[:, 0] == sample
        mesh = extract(decoded.voxels.coords[mine], decoded.feats[mine], 128)
        vertices, _ = drop_floaters(mesh.vertices.numpy(), mesh.faces.numpy())
        reach = np.linalg.norm((vertices + 0.5) * 128 - np.array(center), axis=1)
        outer = reach[reach > radius - 1.5]
        assert len(outer) > 3 * radius**2
        assert abs(np.median(outer) - radius) < 0.5 and np.abs(outer - radius).mean() < 0.5


def test_normalisation_is_measured(trained):
    module = train_slat_autoencoder.load_slat_autoencoder(trained, TINY)
    people = SurfacePeople(trained.people)
    measured = measure_normalisation(module.encoder, people)
    batch = people.take(torch.tensor([0, 1]))
    latents = module.encoder.encode(batch, Voxels.of(batch["coords"]))
    assert torch.allclose(latents.mean(0), torch.tensor(measured.mean), atol=1e-3)
    assert torch.allclose(latents.std(0, correction=0), torch.tensor(measured.std), rtol=1e-3)


def test_flow_learns_the_latents(trained):
    loop = LoopConfig(minutes=5, max_steps=60, learning_rate=4e-3, warmup=10, ema=0.9)
    leg = Leg(trained.people, trained.out, CPU, 2, None, loop)
    with pytest.raises(FileNotFoundError, match=r"docs/training\.md"):
        train_slat_flow.load_slat_flow(leg, TINY)
    train_slat_flow.run(leg, TINY, TinyStage1)
    log = log_of(leg, train_slat_flow.FOLDER)
    assert log[-1]["loss"] < 0.75 * log[0]["loss"] and np.isfinite(log[-1]["sample"])
    flow, normalisation = train_slat_flow.load_slat_flow(leg, TINY)
    assert len(normalisation.mean) == TINY.flow.channels and not flow.training
