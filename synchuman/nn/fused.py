"""Chains of small operations, in one pass over memory where the device can: norms, gates, activations.

Every function is plain torch; on CUDA in half precision, without gradients, a Triton kernel does the same
with fewer trips to memory. Both compute in float32 inside, so they differ by rounding alone.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

LOGGER = logging.getLogger(__name__)

HALF = (torch.float16, torch.bfloat16)


class _Switch:
    """Whether kernels are used where they can be."""

    on = True


@contextmanager
def plain_torch() -> Iterator[None]:
    """Use no kernels in this block, to compare with them."""
    before, _Switch.on = _Switch.on, False
    try:
        yield
    finally:
        _Switch.on = before


@cache
def _kernels() -> ModuleType | None:
    """The kernels, where Triton is installed and able to build one."""
    try:
        from synchuman.nn import triton_kernels
    except ImportError:
        return None
    try:
        triton_kernels.geglu(torch.zeros(1, 2, device="cuda", dtype=torch.float16))
    except Exception as error:  # a missing compiler or driver, each with an error of its own
        LOGGER.warning("Triton cannot build kernels here, so plain torch is used, slower: %s", error)
        return None
    return triton_kernels


def _usable(x: Tensor) -> ModuleType | None:
    """The kernels, if they serve a tensor."""
    if not (_Switch.on and x.is_cuda and x.dtype in HALF) or torch.is_grad_enabled():
        return None
    return _kernels()


def group_norm(
    x: Tensor | tuple[Tensor, ...], norm: nn.GroupNorm, silu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """Group norm, after a shift per image and channel and before a SiLU, where wanted.

    Args:
        x: [batch, channels, ...], or several to be joined along the channels; the kernel serves them with the
            channels last in memory.
        norm: Groups, gains and biases.
        silu: Whether SiLU follows.
        shift: [batch, channels], added to x first.

    Returns:
        Like `x`, joined, in its memory format.
    """
    parts = x if isinstance(x, tuple) else (x,)
    kernels = _usable(parts[0])
    last = [part.movedim(1, -1) for part in parts]
    if kernels is not None and all(p.is_contiguous() and p.dtype == last[0].dtype for p in last):
        first, *more = (part.flatten(1, -2) for part in last)
        normed = kernels.group_norm(
            first, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, shift, *more
        )
        return normed.view(*last[0].shape[:-1], -1).movedim(-1, 1)
    whole = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    if shift is not None:
        whole = whole + shift.view(*shift.shape, *(1,) * (whole.ndim - 2))
    whole = F.group_norm(whole, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(whole) if silu else whole


def add_maps(x: Tensor, residual: Tensor, bias: Tensor | None) -> Tensor:
    """Return x + bias + residual for [batch, channels, h, w] maps and a bias [channels]."""
    kernels = _usable(x)
    if bias is not None and kernels is not None:
        a, b = x.movedim(1, -1), residual.movedim(1, -1)
        if a.is_contiguous() and b.is_contiguous() and a.dtype == b.dtype:
            return kernels.add_biased(a, b, bias).movedim(-1, 1)
    return x + residual if bias is None else x + bias.view(-1, 1, 1) + residual


def spread_phases(phases: Tensor, bias: Tensor) -> Tensor:
    """Interleave the four phases of a doubled map and add a bias.

    Args:
        phases: [batch, 4 channels, n + 1, n + 1], the phase (row parity, column parity) first among the
            channels. Pixel (2 i + a, 2 j + b) of the result is at (i + a, j + b) of phase (a, b).
        bias: [channels].

    Returns:
        [batch, channels, 2 n, 2 n].
    """
    kernels = _usable(phases)
    last = phases.movedim(1, -1)
    if kernels is not None and last.is_contiguous():
        return kernels.spread_phases(last, bias).movedim(-1, 1)
    side, (top, bottom) = phases.shape[-1] - 1, phases.unflatten(1, (2, 2, -1)).unbind(1)
    rows = [
        torch.stack([part[:, b, :, a : a + side, b : b + side] for b in (0, 1)], dim=-1)
        for a, part in enumerate((top, bottom))
    ]
    spread = torch.stack(rows, dim=-3).flatten(-2).flatten(-3, -2) + bias.view(-1, 1, 1)
    return spread.contiguous(memory_format=torch.channels_last) if last.is_contiguous() else spread


def geglu(x: Tensor) -> Tensor:
    """Gated linear unit with exact GELU (Shazeer 2020): [..., 2 n] to [..., n], the gate last."""
    kernels = _usable(x)
    if kernels is not None and x.is_contiguous():
        return kernels.geglu(x)
    values, gate = x.chunk(2, dim=-1)
    return values * F.gelu(gate)


def rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """Root-mean-square norm of [..., heads, head width] with gains [heads, head width]."""
    return (F.normalize(x.float(), dim=-1) * gamma * x.shape[-1] ** 0.5).to(x.dtype)


def normalise_heads(qkv: Tensor, q_gamma: Tensor, k_gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RMS-norm queries and keys of [..., 3, heads, head width]; it may be overwritten.

    Returns:
        Queries, keys and values, [..., heads, head width].
    """
    kernels = _usable(qkv)
    if kernels is not None and qkv.is_contiguous():
        kernels.normalise_heads_(qkv, q_gamma, k_gamma)
        query, key, value = qkv.unbind(-3)
        return query, key, value
    query, key, value = qkv.unbind(-3)
    return rms_norm(query, q_gamma), rms_norm(key, k_gamma), value


def layer_norm(
    x: Tensor, norm: nn.LayerNorm, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Layer norm over the last axis; with scale and shift, times (1 + scale) plus shift.

    Args:
        x: [batch, tokens, width].
        norm: Gains and biases, if it has some.
        scale: [1 or batch, 1, width].
        shift: Like `scale`.
    """
    kernels = _usable(x)
    if kernels is not None and x.is_contiguous():
        return kernels.add_layer_norm(x, None, None, norm, scale, shift)[1]
    normed = norm(x)
    return normed if scale is None or shift is None else normed * (1 + scale) + shift


def add_layer_norm(
    x: Tensor,
    delta: Tensor,
    norm: nn.LayerNorm,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add to a residual stream and norm the sum: (x + gate * delta + offset, layer norm of x + gate * delta).

    Args:
        x: [batch, tokens, width].
        delta: Like `x`.
        norm: As in `layer_norm`.
        gate: [1 or batch, 1, width]; None: 1.
        scale: As in `layer_norm`.
        shift: As in `layer_norm`.
        offset: [width] that the sum is returned with, but normed without; None: 0.
    """
    kernels = _usable(x)
    if kernels is not None and x.is_contiguous() and delta.is_contiguous() and x.dtype == delta.dtype:
        return kernels.add_layer_norm(x, delta, gate, norm, scale, shift, offset)
    total = x + delta if gate is None else x + gate * delta
    return (total if offset is None else total + offset), layer_norm(total, norm, scale, shift)


def add_layer_norm_in_order(
    x: Tensor, delta: Tensor | None, norm: nn.LayerNorm, order: tuple[int, ...], length: int
) -> tuple[Tensor, Tensor]:
    """Add to a residual stream and norm the sum, with its axes in another order in memory.

    Args:
        x: [a, b, c, d, e, width].
        delta: Like `x`, its axes in any order in memory, or shorter along c, where the rest gets nothing;
            None to add nothing.
        norm: With gains and biases.
        order: Of the first five axes in what is normed.
        length: What is normed of c.

    Returns:
        x + delta, and the layer norm of its first `length` of c, its axes in that order.
    """
    kernels = _usable(x)
    if kernels is not None and x.is_contiguous() and (delta is None or _rows_apart(delta, x)):
        return kernels.add_layer_norm_in_order(x, delta, norm, order, length)
    if delta is None:
        total = x
    elif delta.shape[2] == x.shape[2]:
        total = x + delta
    else:
        total = torch.cat([x[:, :, : delta.shape[2]] + delta, x[:, :, delta.shape[2] :]], dim=2)
    return total, norm(total[:, :, :length]).permute(*order, 5).contiguous()


def _rows_apart(delta: Tensor, x: Tensor) -> bool:
    """Whether rows of [..., width] lie whole in memory, at multiples of their width."""
    width = x.shape[-1]
    return (
        delta.dtype == x.dtype and delta.stride(-1) == 1 and all(s % width == 0 for s in delta.stride()[:-1])
    )
