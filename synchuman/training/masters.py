"""The trained parameters in float32, and their moving average."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Masters:
    """The trained parameters in float32, whatever the module computes in (Micikevicius et al. 2018, 3.1).

    Args:
        module: Its trained parameters are the masters themselves, or with `dtype` copies of them.
        dtype: What the module is turned into; None leaves it as it is.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        self.own = list(trained_parameters(module).values())
        self.values = trained_parameters(module)
        self.copied = dtype is not None
        if dtype is not None:
            self.values = {k: nn.Parameter(p.detach().clone()) for k, p in self.values.items()}
            module.to(dtype)

    def take_gradients(self) -> None:
        """Hand the module's gradients to the masters."""
        if self.copied:
            for master, parameter in zip(self.values.values(), self.own, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None

    @torch.no_grad()
    def give_values(self) -> None:
        """Write the masters' values into the module."""
        if self.copied:
            torch._foreach_copy_(list[Tensor](self.own), list[Tensor](self.values.values()))


class Averaged:
    """Exponential moving average of the trained parameters, with a warm-up of its own decay."""

    def __init__(self, masters: Masters, decay: float) -> None:
        self.decay = decay
        self.values = {k: p.detach().clone() for k, p in masters.values.items()}

    @torch.no_grad()
    def update(self, masters: Masters, step: int) -> None:
        """Move the average toward the masters after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(masters.values.values()), 1 - decay)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
