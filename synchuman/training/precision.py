"""Mixed precision as every trainer uses it."""

from __future__ import annotations

import torch

from synchuman.placement import computes_bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bfloat16 where that gains time, and changes nothing elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bfloat16(device))
