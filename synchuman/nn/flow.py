"""What the samplers of both stages share: the times of the steps, and guidance."""

from __future__ import annotations

from torch import Tensor

RESCALE = 3.0


def schedule(steps: int, rescale: float = RESCALE) -> list[float]:
    """Return steps + 1 times from 1 down to 0, denser at the noisy end (Esser et al. 2024, section 5.3.2)."""
    uniform = [1 - i / steps for i in range(steps + 1)]
    return [rescale * u / (1 + (rescale - 1) * u) for u in uniform]


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022); scale 1 returns the conditional velocity."""
    return unconditional + scale * (conditional - unconditional)
