"""What the samplers of both stages share: the times of the steps, guidance, and the solvers."""

from __future__ import annotations

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


def adams_bashforth() -> Turn:
    """Adams-Bashforth of order 2 for uneven steps (Hairer et al. 1993, section III.5).

    It takes the bend that the last two velocities show, so it needs no evaluation more than Euler's method.
    """
    before: list[tuple[Tensor, float]] = []

    def turn(state: Tensor, velocity: Tensor, now: float, after: float) -> Tensor:
        direction = velocity
        if before:
            earlier, start = before.pop()
            direction = velocity + (now - after) / (2 * (start - now)) * (velocity - earlier)
        # A copy: a recorded network writes its next result to the same place.
        before.append((velocity.clone(), now))
        return direction

    return turn


# By the names that settings give.
SOLVERS: dict[str, Solver] = {"euler": euler, "multistep": adams_bashforth}


def solver_of(name: str) -> Solver:
    """Return a solver by its name.

    Raises:
        ValueError: No solver has that name.
    """
    if name not in SOLVERS:
        raise ValueError(f"No solver {name!r}; there are {', '.join(SOLVERS)}.")
    return SOLVERS[name]
