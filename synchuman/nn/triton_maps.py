"""Triton kernels for maps, behind `nn.fused`: group norm, sums, phases; importing this needs Triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Of a group norm's statistics: enough programs to fill a GPU, few partial results.
ROWS_PER_SPLIT, MOST_SPLITS = 512, 256


def on_device_of_first(
    launch: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """Launch on the device of the first tensor: Triton takes the current one."""

    @wraps(launch)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with torch.cuda.device_of(args[0]):
            return launch(*args, **kwargs)

    return guarded


@triton.jit(do_not_specialize=["rows", "splits", "rows_per_split"])
def _channel_moments(
    x, means, squares, rows, channels, all_channels, offset, splits, rows_per_split,
    STEPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared differences of every channel over some rows of an image."""
    image, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = c < channels
    first = split * rows_per_split
    last = tl.minimum(first + rows_per_split, rows)
    start = x + image.to(tl.int64) * rows * channels
    # Sums of differences from the first row: no large mean that cancels, no merging on the way.
    near = tl.load(start + first * channels + c, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    squared = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for index in range(STEPS):
        r = first + index * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = (r < last)[:, None] & inside[None, :]
        values = tl.load(start + r[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        away = tl.where(mask, values - near[None, :], 0.0)
        sums += away
        squared += away * away
    count = (last - first).to(tl.float32)
    part = tl.sum(sums, 0) / count
    place = (image * splits + split) * all_channels + offset + c
    tl.store(means + place, near + part, mask=inside)
    tl.store(squares + place, tl.maximum(tl.sum(squared, 0) - part * part * count, 0.0), mask=inside)


@triton.jit(do_not_specialize=["rows", "channels", "splits", "rows_per_split", "per_group"])
def _group_affine(
    means, squares, shift, weight, bias, scales, offsets, rows, channels, splits, rows_per_split,
    per_group, eps, HAS_SHIFT: tl.constexpr, BLOCK_SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scale and offset of every channel of a group from the moments of its channels."""
    image, group = tl.program_id(0), tl.program_id(1)
    c = group * per_group + tl.arange(0, BLOCK)
    mine = tl.arange(0, BLOCK) < per_group
    added = tl.zeros([BLOCK], tl.float32)
    if HAS_SHIFT:
        added = tl.load(shift + image * channels + c, mask=mine, other=0.0).to(tl.float32)
    total = rows * per_group
    sums = tl.zeros([32, BLOCK], tl.float32)
    for start in range(0, BLOCK_SPLITS, 32):
        s = start + tl.arange(0, 32)
        mask = (s < splits)[:, None] & mine[None, :]
        place = (image * splits + s[:, None]) * channels + c[None, :]
        mean = tl.load(means + place, mask=mask, other=0.0) + added[None, :]
        left = tl.minimum(tl.maximum(rows - s * rows_per_split, 0), rows_per_split).to(tl.float32)
        sums += tl.where(mask, mean * left[:, None], 0.0)
    centre = tl.sum(tl.sum(sums, 1), 0) / total
    squared = tl.zeros([32, BLOCK], tl.float32)
    for start in range(0, BLOCK_SPLITS, 32):
        s = start + tl.arange(0, 32)
        mask = (s < splits)[:, None] & mine[None, :]
        place = (image * splits + s[:, None]) * channels + c[None, :]
        away = tl.load(means + place, mask=mask, other=0.0) + added[None, :] - centre
        square = tl.load(squares + place, mask=mask, other=0.0)
        left = tl.minimum(tl.maximum(rows - s * rows_per_split, 0), rows_per_split).to(tl.float32)
        squared += tl.where(mask, square + away * away * left[:, None], 0.0)
    variance = tl.sum(tl.sum(squared, 1), 0) / total
    gain = tl.load(weight + c, mask=mine, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    offset = tl.load(bias + c, mask=mine, other=0.0).to(tl.float32) + (added - centre) * gain
    tl.store(scales + image * channels + c, gain, mask=mine)
    tl.store(offsets + image * channels + c, offset, mask=mine)


@triton.jit(do_not_specialize=["rows"])
def _apply_affine(
    x, out, scales, offsets, rows, channels, all_channels, offset,
    SILU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2)
    r = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    row = image.to(tl.int64) * rows + r[:, None]
    scale = tl.load(scales + image * all_channels + offset + c, mask=inside, other=0.0)
    move = tl.load(offsets + image * all_channels + offset + c, mask=inside, other=0.0)
    values = tl.load(x + row * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    y = values * scale[None, :] + move[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + row * all_channels + offset + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@on_device_of_first
def group_norm(
    first: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, shift: Tensor | None,
    *more: Tensor,
) -> Tensor:  # fmt: skip
    """Group norm of parts [batch, rows, channels of the part], contiguous; see `fused.group_norm`.

    Returns:
        [batch, rows, channels of all parts].
    """
    parts = (first, *more)
    batch, rows = first.shape[:2]
    channels = sum(part.shape[2] for part in parts)
    steps = triton.cdiv(max(ROWS_PER_SPLIT, triton.cdiv(rows, MOST_SPLITS)), 64)
    splits = triton.cdiv(rows, 64 * steps)
    per_split = triton.cdiv(rows, splits)
    splits = triton.cdiv(rows, per_split)  # none is empty
    means, squares = torch.empty(2, batch, splits, channels, device=first.device, dtype=torch.float32)
    scales, offsets = torch.empty(2, batch, channels, device=first.device, dtype=torch.float32)
    out = first.new_empty(batch, rows, channels)
    places = [sum(p.shape[2] for p in parts[:index]) for index in range(len(parts))]
    for part, place in zip(parts, places, strict=True):
        own = part.shape[2]
        _channel_moments[(batch, splits, triton.cdiv(own, 64))](
            part, means, squares, rows, own, channels, place, splits, per_split,
            STEPS=steps, BLOCK_ROWS=64, BLOCK_CHANNELS=64,
        )  # fmt: skip
    per_group = channels // groups
    _group_affine[(batch, groups)](
        means, squares, first if shift is None else shift.contiguous(), weight, bias, scales, offsets,
        rows, channels, splits, per_split, per_group, eps, HAS_SHIFT=shift is not None,
        BLOCK_SPLITS=max(triton.next_power_of_2(splits), 32),
        BLOCK=max(triton.next_power_of_2(per_group), 64),
    )  # fmt: skip
    for part, place in zip(parts, places, strict=True):
        own = part.shape[2]
        _apply_affine[(triton.cdiv(rows, 64), triton.cdiv(own, 64), batch)](
            part, out, scales, offsets, rows, own, channels, place,
            SILU=silu, BLOCK_ROWS=64, BLOCK_CHANNELS=64,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["rows"])
def _add_biased(
    x, residual, bias, out, rows, channels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    place = r.to(tl.int64)[:, None] * channels + c[None, :]
    total = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    total += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)


@on_device_of_first
def add_biased(x: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    """Return x + residual + bias over the last axis; both contiguous."""
    out, channels = torch.empty_like(x), len(bias)
    rows = x.numel() // channels
    grid = triton.cdiv(rows, 64), triton.cdiv(channels, 64)
    _add_biased[grid](x, residual, bias, out, rows, channels, BLOCK_ROWS=64, BLOCK_CHANNELS=64)
    return out


@triton.jit(do_not_specialize=["rows", "side"])
def _spread_phases(
    phases, bias, out, rows, side, channels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    x = r % side
    left = r // side
    y = left % side
    image = left // side
    low = side // 2 + 1
    source = (image * low + y // 2 + y % 2) * low + x // 2 + x % 2
    place = (source * 4 + (y % 2) * 2 + x % 2).to(tl.int64) * channels
    total = tl.load(phases + place[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    total += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + r.to(tl.int64)[:, None] * channels + c[None, :], total.to(out.dtype.element_ty), mask=mask)


@on_device_of_first
def spread_phases(phases: Tensor, bias: Tensor) -> Tensor:
    """See `fused.spread_phases`: from [batch, n + 1, n + 1, 4 channels], contiguous."""
    batch, side, channels = len(phases), 2 * (phases.shape[1] - 1), len(bias)
    out = phases.new_empty(batch, side, side, channels)
    rows = batch * side * side
    grid = triton.cdiv(rows, 64), triton.cdiv(channels, 64)
    _spread_phases[grid](phases, bias, out, rows, side, channels, BLOCK_ROWS=64, BLOCK_CHANNELS=64)
    return out
