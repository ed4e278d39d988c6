"""Sampling of structured latents, guided only while the noise is strong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from synchuman.nn.cuda_graph import GraphedFunction, shared_pool
from synchuman.nn.flow import Solver, advance, euler, guide, schedule
from synchuman.nn.sparse_tensor import SparseTensor, Voxels
from synchuman.stage2.config import SlatNormalisation, SlatSamplerConfig
from synchuman.stage2.slat_flow import SlatFlow

TIMES_PER_UNIT = 1000.0  # the flow gets t times this

# Velocity of a state at a time [1] in 0 to 1000, with the condition or without.
Velocity = Callable[[Tensor, Tensor, bool], Tensor]


@dataclass(frozen=True)
class FlowStep:
    """A step of the sampler is done.

    Attributes:
        step: Steps done, from 1 to total.
        total: Number of steps.
        state: The state after this step; after the last, the sample.
    """

    step: int
    total: int
    state: Tensor


def sample_flow(
    velocity: Velocity, noise: Tensor, config: SlatSamplerConfig, solver: Solver = euler
) -> Iterator[FlowStep]:
    """Integrate a velocity from noise, guided in an interval of times (Kynkäänniemi et al. 2024)."""
    state = noise
    times = schedule(config.steps, config.rescale)
    # On the device from the start: a number sent at each step would be waited for.
    clock = torch.tensor([TIMES_PER_UNIT * time for time in times]).to(noise.device)
    turn, was_guided = solver(), False
    for step, (time, next_time) in enumerate(pairwise(times), start=1):
        now = clock[step - 1 : step]
        direction = velocity(state, now, True)
        guided = config.guidance != 1 and config.guidance_from <= time <= config.guidance_to
        if guided:
            direction = guide(velocity(state, now, False), direction, config.guidance)
        if guided != was_guided:
            # The velocity jumps where guidance starts or ends: nothing follows from the steps before.
            turn, was_guided = solver(), guided
        state = advance(state, turn(state, direction, time, next_time), time, next_time)
        yield FlowStep(step, config.steps, state)


@torch.no_grad()
def sample_slat(
    flow: SlatFlow,
    voxels: Voxels,
    condition: Tensor,
    config: SlatSamplerConfig,
    seed: int,
    solver: Solver = euler,
) -> Iterator[FlowStep]:
    """Sample normalised structured latents, step by step; stop iterating to cancel.

    Args:
        flow: On the device where sampling shall run.
        voxels: Occupied voxels at the flow's resolution, on the same device.
        condition: [batch, tokens, condition width] image tokens, on the same device.
        config: Steps and guidance.
        seed: The noise is drawn on the CPU from it, the same for every device.
        solver: Of `nn.flow`.

    Yields:
        One `FlowStep` per step with state [n, channels] float32; give the last one to `denormalise`.

    Raises:
        ValueError: There are no voxels, or not as many samples of tokens as of voxels.
    """
    if not len(voxels):
        raise ValueError("No voxel is occupied, so there is nothing to sample: Stage 1 found no person.")
    if len(condition) != voxels.batch:
        raise ValueError(f"{len(condition)} samples of image tokens for {voxels.batch} samples of voxels.")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(voxels), flow.config.channels, generator=generator).to(voxels.coords.device)
    # The unconditional tokens are all zero. Equal tokens attend as one, so one of them will do.
    tokens = {True: condition, False: torch.zeros_like(condition[:, :1])}
    pool = shared_pool(voxels.coords.device)
    networks = {key: GraphedFunction(_bind(flow, voxels, tokens[key]), pool) for key in tokens}

    def velocity(state: Tensor, time: Tensor, conditional: bool) -> Tensor:
        return networks[conditional](state, time)[0]

    try:
        yield from sample_flow(velocity, noise, config, solver)
    finally:
        for network in networks.values():
            network.release()


def _bind(flow: SlatFlow, voxels: Voxels, tokens: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor]]:
    """Return the flow at fixed voxels and with a fixed condition, projected once for all steps."""
    projected = flow.project(tokens)
    return lambda state, time: (flow(SparseTensor(state, voxels), time, projected).feats,)


def denormalise(feats: Tensor, normalisation: SlatNormalisation) -> Tensor:
    """Turn sampled latents [n, channels] into those the decoders expect."""
    return feats * feats.new_tensor(normalisation.std) + feats.new_tensor(normalisation.mean)


def normalise(feats: Tensor, normalisation: SlatNormalisation) -> Tensor:
    """Undo `denormalise`, for training."""
    return (feats - feats.new_tensor(normalisation.mean)) / feats.new_tensor(normalisation.std)
