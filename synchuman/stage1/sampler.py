"""Joint sampling of views and structure: conditions, guidance and Euler steps as plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from synchuman.nn.flow import Solver, advance, euler, guide
from synchuman.stage1.layout import DOMAINS, IMAGES_PER_GROUP
from synchuman.views import NUM_VIEWS

# From (noisy and condition latents [B, c, h, w], time [] of 0 to 1000, structure [groups, c, n, n, n]) to
# both velocities.
Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Noise:
    """Where sampling starts: `views` [10, c, h, w], normals then colours, and `structure` [1, c, n, n, n]."""

    views: Tensor
    structure: Tensor


@dataclass(frozen=True)
class Inputs:
    """Conditions of one human, or with `guided` of its unconditional and conditional group.

    Attributes:
        latents: [B, c, h, w] condition latents.
        prompts: [B, tokens, width].
        labels: [B, class width], or None.
        tokens: [groups, tokens, width] of the image encoder.
    """

    latents: Tensor
    prompts: Tensor
    labels: Tensor | None
    tokens: Tensor


@dataclass(frozen=True)
class Step:
    """State after one step; the estimates are where the velocity points at t = 0."""

    index: int  # from 1
    total: int
    views: Tensor
    structure: Tensor
    views_estimate: Tensor
    structure_estimate: Tensor


def draw_noise(
    seed: int, views: tuple[int, int, int], structure: tuple[int, int, int, int], embedding: int | None
) -> Noise:
    """Draw the starting noise on the CPU, so that every device starts from the same.

    Args:
        seed: Of the run.
        views: (channels, rows, columns) of a view's latents.
        structure: (channels, n, n, n) of the structure latent.
        embedding: Width of the CLIP image embedding, for which the published method draws unused noise first;
            None when there is no such embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    if embedding is not None:
        torch.randn((IMAGES_PER_GROUP, embedding), generator=generator)
    first = torch.randn((IMAGES_PER_GROUP, *views), generator=generator)
    return Noise(first, torch.randn((1, *structure), generator=generator))


def guided(inputs: Inputs) -> Inputs:
    """Put an unconditional group before the conditional one: everything zero but the prompts."""
    return Inputs(
        latents=_before(torch.zeros_like(inputs.latents), inputs.latents),
        prompts=_before(inputs.prompts, inputs.prompts),
        labels=None if inputs.labels is None else _before(torch.zeros_like(inputs.labels), inputs.labels),
        tokens=torch.cat([torch.zeros_like(inputs.tokens), inputs.tokens]),
    )


def sample(
    velocity: Velocity,
    noise: Noise,
    latents: Tensor,
    times: list[float],
    guidance: float,
    solver: Solver = euler,
    structure_guidance: float | None = None,
) -> Iterator[Step]:
    """Take the steps of both branches together.

    Args:
        velocity: The joint network with its conditions bound.
        noise: Where to start, in float32 on the network's device.
        latents: [B, c, h, w] condition latents of `Inputs`: one group, or two from `guided`.
        times: What `nn.flow.schedule` returned.
        guidance: Guidance scale; used when there are two groups.
        solver: Of `nn.flow`.
        structure_guidance: Guidance scale of the structure, if it has its own.

    Yields:
        The state after every step.
    """
    views, structure = noise.views, noise.structure
    # On the device from the start: a number sent at each step would be waited for.
    clock = torch.tensor([1000 * time for time in times], dtype=torch.float64).to(views.device)
    turn_views, turn_structure = solver(), solver()
    groups = len(latents) // IMAGES_PER_GROUP
    own = guidance if structure_guidance is None else structure_guidance
    total = len(times) - 1
    for index, (now, after) in enumerate(pairwise(times), start=1):
        repeated = views if groups == 1 else _before(views, views)
        batch = torch.cat([repeated, latents.to(views.dtype)], dim=1)
        views_velocity, structure_velocity = velocity(
            batch, clock[index - 1], structure.expand(groups, -1, -1, -1, -1)
        )
        if groups > 1:
            unconditional, conditional = _halves(views_velocity)
            views_velocity = guide(unconditional, conditional, guidance)
            structure_velocity = guide(structure_velocity[:1], structure_velocity[1:], own)
        views_estimate = views - now * views_velocity
        structure_estimate = structure - now * structure_velocity
        views = advance(views, turn_views(views, views_velocity, now, after), now, after)
        turned = turn_structure(structure, structure_velocity, now, after)
        structure = advance(structure, turned, now, after)
        yield Step(index, total, views, structure, views_estimate, structure_estimate)


def _before(first: Tensor, second: Tensor) -> Tensor:
    """Join two groups of [10, ...] to one 2D batch [20, ...], see `layout`."""
    shape = (DOMAINS, NUM_VIEWS)
    return torch.stack([first.unflatten(0, shape), second.unflatten(0, shape)], dim=1).flatten(0, 2)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a 2D batch of two groups into both, each [10, ...]."""
    first, second = x.unflatten(0, (DOMAINS, 2, NUM_VIEWS)).unbind(1)
    return first.flatten(0, 1), second.flatten(0, 1)
