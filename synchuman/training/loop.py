"""The training loop every trainer shares: resumable, time-boxed, averaged weights, plain log."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from synchuman.placement import computes_bfloat16
from synchuman.training import ranks
from synchuman.training.checkpoints import restore, save
from synchuman.training.masters import Averaged, Masters
from synchuman.training.muon import Muon, is_matrix
from synchuman.training.precision import autocast

LOGGER = logging.getLogger(__name__)
OVER = 0.0  # instead of a rate, when the time is up


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        minutes: Wall-clock budget of this call; training stops at its end and leaves a checkpoint.
        deadline: Unix time at which this call stops at the latest, whatever loading took; 0 for none.
        horizon: Minutes of all calls together, over which the rate falls; 0: it falls over this call.
        max_steps: Steps over all calls after which training is complete.
        learning_rate: Peak rate, reached after the warm-up.
        warmup: Steps of linear warm-up; also repeated when training resumes without optimiser state.
        weight_decay: Decoupled decay.
        ema: Decay of the averaged weights that are exported.
        clip: Gradient-norm limit.
        save_every_seconds: Seconds between checkpoints.
        pure: Compute in bfloat16 throughout where that gains time, on float32 master weights; 0 for autocast.
        muon: Muon for the matrices and AdamW for the rest, instead of AdamW for all.
        compile: Compile the repeated blocks where the leg knows them: some minutes at first, quicker steps.
        seed: Seed of everything random in this leg.
    """

    minutes: float = 10.0
    deadline: float = 0.0
    horizon: float = 0.0
    max_steps: int = 1_000_000
    learning_rate: float = 3e-4
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    save_every_seconds: float = 120.0
    pure: int = 0
    muon: int = 0
    compile: int = 0
    seed: int = 0


def learning_rate(config: LoopConfig, step: int, resumed_at: int, progress: float) -> float:
    """Return the rate at a step: linear warm-up, then a cosine to a tenth over `progress` in [0, 1]."""
    warm = min(1.0, (step - resumed_at + 1) / max(config.warmup, 1))
    return config.learning_rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * min(progress, 1.0))))


def make_optimizers(
    trained: list[nn.Parameter], config: LoopConfig, device: torch.device
) -> list[torch.optim.Optimizer]:
    """Return what moves the parameters, each by exactly one optimiser."""
    optimizers: list[torch.optim.Optimizer] = []
    if config.muon:
        matrices = [p for p in trained if is_matrix(p)]
        optimizers.append(Muon(matrices, config.learning_rate, config.weight_decay))
        trained = [p for p in trained if not is_matrix(p)]
    optimizers.append(
        torch.optim.AdamW(
            trained,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
            fused=device.type == "cuda",
        )
    )
    return optimizers


def train(
    module: nn.Module,
    batches: Iterator[dict[str, Tensor]],
    loss_of: Callable[[nn.Module, dict[str, Tensor], torch.Generator], dict[str, Tensor]],
    folder: Path,
    config: LoopConfig,
    device: torch.device,
) -> Averaged:
    """Train a module until the time budget or the step limit is over, resuming from `folder` if it can.

    Args:
        module: What is trained; float32 parameters, moved to `device`.
        batches: Endless batches (CPU or device tensors).
        loss_of: Returns named scalar terms; "loss" is minimised, the others are logged.
        folder: Checkpoints (`weights`, `average`, `optimizer` safetensors, `state.json`) and `log.jsonl`.
        config: Budgets and rates.
        device: Where to train. See `precision.autocast`.

    Returns:
        The averaged weights at the end.
    """
    torch.manual_seed(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    module.to(device).train()
    torch.set_float32_matmul_precision("high")
    # It plans anew for every shape, and sparse batches have new shapes at every step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    pure = bool(config.pure) and computes_bfloat16(device)
    masters = Masters(module, torch.bfloat16 if pure else None)
    trained = list(masters.values.values())
    optimizers = make_optimizers(trained, config, device)
    average = Averaged(masters, config.ema)
    step, spent = restore(module, masters, average, optimizers, folder)
    ranks.copy_from_first([*trained, *average.values.values()])
    masters.give_values()
    first, started, saved = step, time.monotonic(), time.monotonic()
    generator = torch.Generator(device=device).manual_seed(config.seed + step)
    budget = config.minutes * 60
    if config.deadline:
        budget = min(budget, config.deadline - time.time())
    before = spent if config.horizon else 0.0
    horizon = max(config.horizon * 60, before + budget)
    sums: dict[str, Tensor] = {}
    leads = ranks.rank() == ranks.FIRST

    def checkpoint() -> None:
        if leads:
            seconds = spent + time.monotonic() - started
            save(module, masters, average, optimizers, folder, step, seconds, asdict(config))

    with (folder / "log.jsonl" if leads else Path(os.devnull)).open("a") as log:
        while step < config.max_steps:
            elapsed = time.monotonic() - started
            rate = OVER
            if elapsed < budget:
                progress = max(step / config.max_steps, (before + elapsed) / horizon)
                rate = learning_rate(config, step, first, progress)
            rate = ranks.from_first(rate)
            if rate == OVER:
                break
            for group in itertools.chain.from_iterable(o.param_groups for o in optimizers):
                group["lr"] = rate
            batch = {k: v.to(device, non_blocking=True) for k, v in next(batches).items()}
            with nullcontext() if pure else autocast(device):
                terms = loss_of(module, batch, generator)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            masters.take_gradients()
            ranks.average([p.grad for p in trained if p.grad is not None])
            nn.utils.clip_grad_norm_(trained, config.clip)
            for optimizer in optimizers:
                optimizer.step()
            masters.give_values()
            average.update(masters, step)
            step += 1
            for key, value in terms.items():
                sums[key] = sums[key] + value.detach() if key in sums else value.detach()
            if step % 20 == 0:
                line = {k: round(float(v) / min(20, step - first), 5) for k, v in sums.items()}
                sums = {}
                seconds = round(time.monotonic() - started, 1)
                log.write(json.dumps({"step": step, "seconds": seconds, "rate": rate, **line}) + "\n")
                log.flush()
                LOGGER.info("step %d, %.0f s, %s", step, seconds, line)
            if time.monotonic() - saved > config.save_every_seconds:
                checkpoint()
                saved = time.monotonic()
    checkpoint()
    return average
