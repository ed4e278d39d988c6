"""Training in several processes: the mean of their gradients, one clock, one log, the same weights in all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from synchuman.training.loop import LoopConfig, train

ROWS = 8
CONFIG = LoopConfig(max_steps=30, learning_rate=0.1, warmup=3, ema=0.9)


def loss_of(module, batch, generator):
    return {"loss": ((module(batch["x"]) - batch["x"] @ torch.tensor([[2.0], [-1.0]])) ** 2).mean()}


def batches_of(ranks):
    """Batches of the named processes, side by side."""
    generators = [torch.Generator().manual_seed(rank) for rank in ranks]
    while True:
        yield {"x": torch.cat([torch.randn(ROWS, 2, generator=g) for g in generators])}


def network(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 1)


def in_one_of_two(folder):
    from synchuman.training import ranks

    with ranks.joined(torch.device("cpu")) as device:
        rank = ranks.rank()
        module = network(rank)  # each begins with weights of its own
        train(module, batches_of([rank]), loss_of, Path(folder), CONFIG, device)
        torch.save(module.state_dict(), Path(folder) / f"{rank}.pt")


def test_two_processes_train_as_one_with_both_batches(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    train(network(0), batches_of([0, 1]), loss_of, alone, CONFIG, torch.device("cpu"))
    both.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, __file__, both], check=True, timeout=180)
    own = [torch.load(both / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in load_file(alone / "weights.safetensors").items():
        assert torch.allclose(own[0][key], value, atol=1e-5)
        assert torch.equal(own[0][key], own[1][key])
    for name in ("weights", "average"):
        wanted, got = (load_file(folder / f"{name}.safetensors") for folder in (alone, both))
        assert all(torch.allclose(got[key], value, atol=1e-5) for key, value in wanted.items())
    lines = (both / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [20]
    assert json.loads((both / "state.json").read_text())["step"] == CONFIG.max_steps


if __name__ == "__main__":
    in_one_of_two(sys.argv[1])
