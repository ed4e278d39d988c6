"""Solvers of the flow: exact on what they must be exact on, and nearer than Euler's method with half the steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from synchuman.nn import flow
from synchuman.stage2.config import SlatSamplerConfig
from synchuman.stage2.sampler import sample_flow

MEAN, SPREAD = 1.5, 0.3


def velocity(state: torch.Tensor, time: float) -> torch.Tensor:
    """Of the flow from normal noise to normal data, known in closed form."""
    variance = (1 - time) ** 2 * SPREAD**2 + time**2
    away = state - (1 - time) * MEAN
    return time / variance * away - (MEAN + (1 - time) * SPREAD**2 / variance * away)


def solve(solver: flow.Solver, steps: int, of=velocity) -> torch.Tensor:
    """Sample from the same noise."""
    state = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turn = solver()
    for now, after in pairwise(flow.schedule(steps)):
        state = flow.advance(state, turn(state, of(state, now), now, after), now, after)
    return state


def error(solver: flow.Solver, steps: int) -> float:
    noise = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return float((solve(solver, steps) - (MEAN + SPREAD * noise)).abs().max())


def test_the_bend_makes_it_second_order() -> None:
    assert error(flow.adams_bashforth, 20) < error(flow.euler, 50)
    # Twice the steps leave about a quarter of the error; Euler's method leaves half.
    assert error(flow.adams_bashforth, 80) < 0.35 * error(flow.adams_bashforth, 40)
    assert error(flow.euler, 80) > 0.45 * error(flow.euler, 40)


def test_solvers_are_known_by_name() -> None:
    assert flow.solver_of("euler") is flow.euler
    with pytest.raises(ValueError, match="euler, multistep"):
        flow.solver_of("heun")


@pytest.mark.parametrize("name", list(flow.SOLVERS))
def test_a_straight_way_is_followed_exactly(name: str) -> None:
    start = solve(flow.SOLVERS[name], 1, lambda state, time: torch.zeros_like(state))
    end = solve(flow.SOLVERS[name], 7, lambda state, time: torch.full_like(state, 2.0))
    torch.testing.assert_close(end, start - 2.0)


@pytest.mark.parametrize("name", list(flow.SOLVERS))
def test_velocities_may_come_in_the_same_place_every_time(name: str) -> None:
    """As from a CUDA graph, whose next result overwrites the one before."""
    place = torch.empty(200, dtype=torch.float64)
    again = solve(flow.SOLVERS[name], 7, lambda state, time: place.copy_(velocity(state, time)))
    assert torch.equal(again, solve(flow.SOLVERS[name], 7))


def test_one_sampling_knows_nothing_of_the_one_before() -> None:
    assert torch.equal(solve(flow.adams_bashforth, 5), solve(flow.adams_bashforth, 5))


@pytest.mark.parametrize("name", list(flow.SOLVERS))
def test_no_way_is_drawn_through_the_end_of_guidance(name: str) -> None:
    """Velocities that are constant while guided and constant after it are followed exactly."""
    config = SlatSamplerConfig(steps=12, guidance=6.0)
    noise = torch.zeros(4, 2, dtype=torch.float64)

    def jumping(state: torch.Tensor, time: torch.Tensor, conditional: bool) -> torch.Tensor:
        return torch.full_like(state, 1.0 if conditional else 0.5)

    *_, last = sample_flow(jumping, noise, config, flow.SOLVERS[name])
    *_, plain = sample_flow(jumping, noise, config)
    torch.testing.assert_close(last.state, plain.state)
    assert not math.isclose(float(plain.state[0, 0]), -1.0)
