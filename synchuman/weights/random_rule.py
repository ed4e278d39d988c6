"""Random weights by a fixed rule: any network, of any size, gets the same ones on every machine.

The rule is that of the reference figures in the tests: every weight has a generator of its own, seeded with
the CRC-32 of its published name, and its spread keeps signals at their size through the layers (He et al.
2015, without the factor for ReLU).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(name: str) -> torch.Generator:
    """Return the generator that belongs to a name."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def random_input(name: str, *shape: int) -> Tensor:
    """Return the standard normal input that belongs to a name, float32."""
    return torch.randn(shape, generator=generator(f"input:{name}"))


def random_weight(name: str, shape: Sequence[int]) -> Tensor:
    """Return the weight that belongs to a published name, float32."""
    weight = torch.randn(tuple(shape), generator=generator(name))
    if name.endswith("gamma"):
        return 1 + 0.1 * weight
    if name.endswith("bias"):
        return 0.1 * weight
    if weight.ndim >= 2:
        return weight / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * weight
