"""Muon: momentum whose update is made orthogonal, for the matrices of a network; AdamW for all else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# Quintic iteration whose singular values end between 0.7 and 1.2 (Jordan et al., Muon, 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
SHORTEST = 16
UPDATE_RMS = 0.2  # of an entry, about that of AdamW, so that both share a rate (Liu et al. 2025, section 2.2)


def orthogonalise(matrices: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Bring all singular values near 1 by Newton-Schulz iterations (Jordan et al. 2024).

    Args:
        matrices: [n, rows, columns].
        iterations: How many.

    Returns:
        The same shape, in bfloat16 on a GPU and float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled decay; kernels of convolutions count as matrices.

    Args:
        parameters: Of two or more axes; all but the first are one.
        lr: Rate; an entry of a matrix moves by about 0.2 of it per step.
        weight_decay: Decoupled decay.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; matrices of one shape together."""
        assert closure is None, "Muon takes no closure."
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[(parameter.shape[0], parameter[0].numel())].append(parameter)
            for shape, members in by_shape.items():
                self._move(shape, members, group["lr"], group["weight_decay"])

    def _move(self, shape: tuple[int, int], members: list[Tensor], rate: float, decay: float) -> None:
        gradients = [p.grad for p in members if p.grad is not None]
        for p in members:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in members]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        updates = orthogonalise(torch.stack([u.reshape(shape) for u in ahead])).to(ahead[0].dtype)
        size = UPDATE_RMS * max(shape) ** 0.5
        torch._foreach_mul_(members, 1 - rate * decay)
        changes = [u.reshape(p.shape) for u, p in zip(updates, members, strict=True)]
        torch._foreach_add_(members, changes, alpha=-rate * size)


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon moves it: two axes that are both long enough to have a spectrum worth levelling."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= SHORTEST
