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
SECOND_ORDER = [name for name in flow.SOLVERS if name != "euler"]


def velocity(state: torch.Tensor, time: float) -> torch.Tensor:
    """Of the flow from normal noise to normal data, known in closed form."""
    variance = (1 - time) ** 2 * SPREAD**2 + time**2
    away = state - (1 - time) * MEAN
    return time / variance * away - (MEAN + (1 - time) * SPREAD**2 / variance * away)


def solve(name: str, steps: int, of=velocity) -> torch.Tensor:
    """Sample from the same noise."""
    state = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turn = flow.SOLVERS[name]()
    for now, after in pairwise(flow.schedule(steps)):
        state = flow.advance(state, turn(state, of(state, now), now, after), now, after)
    return state


def error(name: str, steps: int) -> float:
    noise = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return float((solve(name, steps) - (MEAN + SPREAD * noise)).abs().max())


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_fewer_steps_come_nearer(name: str) -> None:
    assert error(name, 20) < error("euler", 50)
    # Twice the steps leave about a quarter of the error; Euler's method leaves half.
    assert error(name, 80) < 0.35 * error(name, 40)
    assert error("euler", 80) > 0.45 * error("euler", 40)


@pytest.mark.parametrize("name", list(flow.SOLVERS))
def test_a_straight_way_is_followed_exactly(name: str) -> None:
    start = solve(name, 1, lambda state, time: torch.zeros_like(state))
    end = solve(name, 7, lambda state, time: torch.full_like(state, 2.0))
    torch.testing.assert_close(end, start - 2.0)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_one_sampling_knows_nothing_of_the_one_before(name: str) -> None:
    assert torch.equal(solve(name, 5), solve(name, 5))


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
