"""The training loop every trainer shares: resumable, time-boxed, averaged weights, plain log."""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synchuman.placement import computes_bfloat16
from synchuman.training.muon import Muon, is_matrix
from synchuman.training.precision import autocast

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        minutes: Wall-clock budget of this call; training stops at its end and leaves a checkpoint.
        deadline: Unix time at which this call stops at the latest, whatever loading took; 0 for none.
        horizon: Minutes of all calls together, over which the rate falls; 0 for this call alone.
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


class Masters:
    """The trained parameters in float32, whatever the module computes in (Micikevicius et al. 2018, 3.1).

    Args:
        module: Its trained parameters are the masters themselves, or with `dtype` copies of them.
        dtype: What the module is turned into; None leaves it as it is.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        self.own = list(_trained(module).values())
        self.values = _trained(module)
        self.copied = dtype is not None
        if dtype is not None:
            self.values = {k: nn.Parameter(p.detach().clone()) for k, p in self.values.items()}
            module.to(dtype)

    def take_gradients(self) -> None:
        """Hand the module's gradients to the masters."""
        if self.copied:
            for master, parameter in zip(self.values.values(), self.own, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None

    @torch.no_grad()
    def give_values(self) -> None:
        """Write the masters' values into the module."""
        if self.copied:
            torch._foreach_copy_(list[Tensor](self.own), list[Tensor](self.values.values()))


class Averaged:
    """Exponential moving average of the trained parameters, with a warm-up of its own decay."""

    def __init__(self, masters: Masters, decay: float) -> None:
        self.decay = decay
        self.values = {k: p.detach().clone() for k, p in masters.values.items()}

    @torch.no_grad()
    def update(self, masters: Masters, step: int) -> None:
        """Move the average toward the masters after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(masters.values.values()), 1 - decay)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


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
    step, spent = _restore(module, masters, average, optimizers, folder)
    first, started, saved = step, time.monotonic(), time.monotonic()
    generator = torch.Generator(device=device).manual_seed(config.seed + step)
    budget = config.minutes * 60
    if config.deadline:
        budget = min(budget, config.deadline - time.time())
    horizon = max(config.horizon * 60, spent + budget)
    sums: dict[str, Tensor] = {}
    with (folder / "log.jsonl").open("a") as log:
        while step < config.max_steps and time.monotonic() - started < budget:
            progress = max(step / config.max_steps, (spent + time.monotonic() - started) / horizon)
            rate = learning_rate(config, step, first, progress)
            for group in itertools.chain.from_iterable(o.param_groups for o in optimizers):
                group["lr"] = rate
            batch = {k: v.to(device, non_blocking=True) for k, v in next(batches).items()}
            with nullcontext() if pure else autocast(device):
                terms = loss_of(module, batch, generator)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            masters.take_gradients()
            nn.utils.clip_grad_norm_(trained, config.clip)
            for optimizer in optimizers:
                optimizer.step()
            masters.give_values()
            average.update(masters, step)
            step += 1
            for key, value in terms.items():
                sums[key] = sums[key] + value.detach() if key in sums else value.detach()
            if step % 20 == 0:
                line = {k: round(float(v) / 20, 5) for k, v in sums.items()}
                sums = {}
                seconds = round(time.monotonic() - started, 1)
                log.write(json.dumps({"step": step, "seconds": seconds, "rate": rate, **line}) + "\n")
                log.flush()
                LOGGER.info("step %d, %.0f s, %s", step, seconds, line)
            if time.monotonic() - saved > config.save_every_seconds:
                _save(
                    module,
                    masters,
                    average,
                    optimizers,
                    folder,
                    step,
                    spent + time.monotonic() - started,
                    config,
                )
                saved = time.monotonic()
    _save(module, masters, average, optimizers, folder, step, spent + time.monotonic() - started, config)
    return average


def _save(
    module: nn.Module,
    masters: Masters,
    average: Averaged,
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
    step: int,
    seconds: float,
    config: LoopConfig,
) -> None:
    moments = {
        f"{number}.{i}.{key}": value.detach().cpu()
        for number, optimizer in enumerate(optimizers)
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    files = {
        "weights": {
            k: masters.values.get(k, v).detach().cpu().contiguous() for k, v in module.state_dict().items()
        },
        "average": {k: v.cpu() for k, v in average.values.items()},
        "optimizer": moments,
    }
    for name, tensors in files.items():
        partial = folder / f"{name}.partial"
        save_file(tensors, partial)
        partial.replace(folder / f"{name}.safetensors")
    partial = folder / "state.partial"
    partial.write_text(json.dumps({"step": step, "seconds": seconds, "config": asdict(config)}))
    partial.replace(folder / "state.json")


def _restore(
    module: nn.Module,
    masters: Masters,
    average: Averaged,
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
) -> tuple[int, float]:
    """Load a checkpoint; returns the steps and seconds of training in it."""
    if not (folder / "state.json").exists():
        return 0, 0.0
    if (folder / "weights.safetensors").exists():
        weights = load_file(folder / "weights.safetensors")
        module.load_state_dict(weights)
    else:  # only the average travels light
        load_average(module, folder)
        weights = load_file(folder / "average.safetensors")
    with torch.no_grad():
        for name, master in masters.values.items():
            master.copy_(weights[name])
        for name, value in load_file(folder / "average.safetensors").items():
            average.values[name].copy_(value)
    # The optimiser's moments may be left behind when a run moves between machines: then it warms up again.
    if (folder / "optimizer.safetensors").exists():
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for key, value in load_file(folder / "optimizer.safetensors").items():
            number, index, name = key.split(".", 2)
            states[int(number)].setdefault(int(index), {})[name] = value
        for optimizer, state in zip(optimizers, states, strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
    reached = json.loads((folder / "state.json").read_text())
    LOGGER.info("resuming at step %d", reached["step"])
    return int(reached["step"]), float(reached["seconds"])


def load_average(module: nn.Module, folder: Path) -> None:
    """Load the averaged weights of a finished leg into a module.

    Raises:
        FileNotFoundError: The leg was never run; the message names the folder.
    """
    path = folder / "average.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train that part first (see docs/training.md).")
    missing, unexpected = module.load_state_dict(load_file(path), strict=False)
    trained = _trained(module)
    missing = [k for k in missing if k in trained]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}."
        )
