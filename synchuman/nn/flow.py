"""What the samplers of both stages share: the times of the steps, guidance, and the solvers."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

RESCALE = 3.0

# From a state, its velocity, its time and the next time to the velocity to go there with.
Turn = Callable[[Tensor, Tensor, float, float], Tensor]
# Starts anew, without memory of earlier steps; one for every tensor that is sampled.
Solver = Callable[[], Turn]


def schedule(steps: int, rescale: float = RESCALE) -> list[float]:
    """Return steps + 1 times from 1 down to 0, denser at the noisy end (Esser et al. 2024, section 5.3.2)."""
    uniform = [1 - i / steps for i in range(steps + 1)]
    return [rescale * u / (1 + (rescale - 1) * u) for u in uniform]


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022); scale 1 returns the conditional velocity."""
    return unconditional + scale * (conditional - unconditional)


def euler() -> Turn:
    """Euler's method: straight on."""
    return lambda state, velocity, now, after: velocity


def advance(state: Tensor, direction: Tensor, now: float, after: float) -> Tensor:
    """Take a step."""
    return state - (now - after) * direction


def adams_bashforth(share: float = 1.0) -> Turn:
    """Adams-Bashforth of order 2 for uneven steps (Hairer et al. 1993, section III.5): no evaluation more.

    Args:
        share: How much of the bend that the last step showed is taken: 0 is Euler's method.
    """
    before: list[tuple[Tensor, float]] = []

    def turn(state: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
        direction = velocity
        if before:
            earlier, start = before.pop()
            bend = share * (now - after) / (2 * (start - now))
            direction = velocity + bend * (velocity - earlier)
        before.append((velocity, now))
        return direction

    return turn


def dpm_solver() -> Turn:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) on the straight path of a flow: no evaluation more.

    With noise t and signal 1 - t, half the logarithm of the signal-to-noise ratio is log((1 - t) / t). The
    first and the last step are Euler's, since there it is infinite.
    """
    before: list[tuple[Tensor, float]] = []

    def turn(state: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
        estimate, direction = state - now * velocity, velocity
        if before:
            earlier, start = before.pop()
            if start < 1 and after > 0:
                ratio = (_ratio(now) - _ratio(start)) / (_ratio(after) - _ratio(now))
                direction = velocity - (estimate - earlier) / (2 * ratio * now)
        before.append((estimate, now))
        return direction

    return turn


SOLVERS: dict[str, Solver] = {
    "euler": euler, "adams-bashforth": adams_bashforth, "dpm-solver": dpm_solver
}  # fmt: skip


def _ratio(time: float) -> float:
    return math.log((1 - time) / time)
