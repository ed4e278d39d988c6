"""Rectified-flow sampling (Liu et al. 2023): the times of an Euler solver, guidance, one step."""

from __future__ import annotations

from torch import Tensor

TIMES_PER_UNIT = 1000.0  # networks get t times this


def flow_times(steps: int, rescale: float = 1.0) -> list[float]:
    """Return the times from 1 (noise) to 0 of an Euler solver.

    Args:
        steps: Number of steps, at least 1.
        rescale: Above 1, steps are smaller near the noise: r u / (1 + (r - 1) u) (Esser et al. 2024, section
            5.3.2).

    Returns:
        steps + 1 falling values; step i goes from the i-th to the next.

    Raises:
        ValueError: No steps, or a rescale that is not positive.
    """
    if steps < 1 or rescale <= 0:
        raise ValueError(f"A flow needs at least 1 step and a positive rescale; got {steps} and {rescale}.")
    even = (1 - i / steps for i in range(steps + 1))
    return [rescale * u / (1 + (rescale - 1) * u) for u in even]


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Move a prediction away from the unconditional one (Ho and Salimans 2022); scale 1 changes nothing."""
    return unconditional + scale * (conditional - unconditional)


def euler_step(x: Tensor, velocity: Tensor, time: float, next_time: float) -> Tensor:
    """Follow the velocity from one time to the next, lower one."""
    return x - (time - next_time) * velocity
