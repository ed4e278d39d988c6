"""Muon: orthogonal updates, the rate it shares with AdamW, and a network that it trains."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

from synchuman.training.checkpoints import load_average
from synchuman.training.loop import LoopConfig, make_optimizers, train
from synchuman.training.muon import UPDATE_RMS, Muon, is_matrix, orthogonalise


@pytest.mark.parametrize("shape", [(3, 48, 200), (2, 200, 48), (1, 64, 64)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.25
    assert values.median() > 0.65
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    aligned = u.mT @ result @ v.mT
    off = aligned - torch.diag_embed(torch.diagonal(aligned, dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


def test_an_update_has_the_size_of_adamws():
    parameter = nn.Parameter(torch.zeros(96, 32, 3, 3))
    parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    Muon([parameter], lr=0.01, weight_decay=0.0).step()
    rms = parameter.detach().square().mean().sqrt()
    assert rms == pytest.approx(0.01 * UPDATE_RMS, rel=0.25)


def test_every_parameter_has_one_optimizer():
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 1))
    trained = list(network.parameters())
    optimizers = make_optimizers(trained, LoopConfig(muon=1), torch.device("cpu"))
    groups = itertools.chain.from_iterable(o.param_groups for o in optimizers)
    held = [p for group in groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, trained))
    assert [is_matrix(p) for p in trained] == [True, False, False, False, False, False]


def test_it_trains_and_resumes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(24, 24, generator=generator)

    def loss_of(module, _batch, rng):
        x = torch.randn(64, 24, generator=rng)
        return {"loss": (module(x) - x @ truth.T).square().mean()}

    config = LoopConfig(muon=1, learning_rate=0.1, warmup=5, ema=0.9, max_steps=60)
    for steps in (60, 200):
        config = LoopConfig(muon=1, learning_rate=0.1, warmup=5, ema=0.9, max_steps=steps)
        train(nn.Linear(24, 24), itertools.repeat({}), loss_of, tmp_path, config, torch.device("cpu"))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.02 * losses[0]
    network = nn.Linear(24, 24)
    load_average(network, tmp_path)
    assert (network.weight - truth).abs().max() < 0.5
