"""Triton kernels behind `nn.fused`; importing this needs Triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Of a group norm's statistics: enough programs to fill a GPU, few partial results.
ROWS_PER_SPLIT, MOST_SPLITS = 512, 256


def _on_device_of_first(
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
    s = tl.arange(0, BLOCK_SPLITS)
    mask = (s < splits)[:, None] & mine[None, :]
    place = (image * splits + s[:, None]) * channels + c[None, :]
    mean = tl.load(means + place, mask=mask, other=0.0)
    square = tl.load(squares + place, mask=mask, other=0.0)
    added = tl.zeros([BLOCK], tl.float32)
    if HAS_SHIFT:
        added = tl.load(shift + image * channels + c, mask=mine, other=0.0).to(tl.float32)
        mean += added[None, :]
    left = tl.minimum(tl.maximum(rows - s * rows_per_split, 0), rows_per_split).to(tl.float32)
    count = tl.where(mask, left[:, None], 0.0)
    total = rows * per_group
    centre = tl.sum(tl.sum(mean * count, 1), 0) / total
    away = mean - centre
    variance = tl.sum(tl.sum(tl.where(mask, square + away * away * count, 0.0), 1), 0) / total
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


@_on_device_of_first
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


@_on_device_of_first
def add_biased(x: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    """Return x + residual + bias over the last axis; both contiguous."""
    out, channels = torch.empty_like(x), len(bias)
    rows = x.numel() // channels
    grid = triton.cdiv(rows, 64), triton.cdiv(channels, 64)
    _add_biased[grid](x, residual, bias, out, rows, channels, BLOCK_ROWS=64, BLOCK_CHANNELS=64)
    return out


@triton.jit(do_not_specialize=["rows"])
def _geglu(x, out, rows, width, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (r < rows)[:, None] & (c < width)[None, :]
    row = r.to(tl.int64)[:, None] * width
    first = x + 2 * row + c[None, :]
    value = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(first + width, mask=mask, other=0.0).to(tl.float32)
    y = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    tl.store(out + row + c[None, :], y.to(out.dtype.element_ty), mask=mask)


@_on_device_of_first
def geglu(x: Tensor) -> Tensor:
    """See `fused.geglu`; contiguous."""
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    rows = out.numel() // width
    _geglu[(triton.cdiv(rows, 8), triton.cdiv(width, 256))](x, out, rows, width, BLOCK_ROWS=8, BLOCK=256)
    return out


@triton.jit(do_not_specialize=["rows", "heads"])
def _normalise_heads(
    qkv, q_gamma, k_gamma, rows, width, heads, scale,
    BLOCK_HEADS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    row, which = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h, d = tl.arange(0, BLOCK_HEADS), tl.arange(0, BLOCK_WIDTH)
    mask = (h < heads)[:, None] & (d < width)[None, :]
    inside = h[:, None] * width + d[None, :]
    place = qkv + (row * 3 + which) * heads * width + inside
    x = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    of_query = tl.load(q_gamma + inside, mask=mask, other=0.0).to(tl.float32)
    gain = tl.where(which == 0, of_query, tl.load(k_gamma + inside, mask=mask, other=0.0).to(tl.float32))
    length = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)
    y = x / length[:, None] * gain * scale
    tl.store(place, y.to(qkv.dtype.element_ty), mask=mask)


@_on_device_of_first
def normalise_heads_(qkv: Tensor, q_gamma: Tensor, k_gamma: Tensor) -> None:
    """RMS-norm queries and keys of [..., 3, heads, head width] in place; contiguous."""
    heads, width = qkv.shape[-2:]
    rows = qkv.numel() // (3 * heads * width)
    _normalise_heads[(rows, 2)](
        qkv, q_gamma, k_gamma, rows, width, heads, width**0.5,
        BLOCK_HEADS=triton.next_power_of_2(heads), BLOCK_WIDTH=triton.next_power_of_2(width),
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "tokens", "gate_stride", "scale_stride", "shift_stride"])
def _add_layer_norm(
    x, delta, gate, weight, bias, scale, shift, offset, total, out,
    rows, tokens, width, gate_stride, scale_stride, shift_stride, eps,
    ADD: tl.constexpr, GATE: tl.constexpr, AFFINE: tl.constexpr, MODULATE: tl.constexpr,
    OFFSET: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.arange(0, BLOCK)
    inside = c < width
    mask = (row < rows)[:, None] & inside[None, :]
    place = row.to(tl.int64)[:, None] * width + c[None, :]
    image = (row // tokens)[:, None]
    y = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        d = tl.load(delta + place, mask=mask, other=0.0).to(tl.float32)
        if GATE:
            d *= tl.load(gate + image * gate_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        # Norm what is kept, rounded, as two operations would.
        y = (y + d).to(total.dtype.element_ty).to(tl.float32)
        kept = y
        if OFFSET:
            kept += tl.load(offset + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        tl.store(total + place, kept.to(total.dtype.element_ty), mask=mask)
    mean = tl.sum(y, 1) / width
    away = tl.where(mask, y - mean[:, None], 0.0)
    y = away / tl.sqrt(tl.sum(away * away, 1) / width + eps)[:, None]
    if AFFINE:
        y = y * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        y += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    if MODULATE:
        y *= 1.0 + tl.load(scale + image * scale_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        y += tl.load(shift + image * shift_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=mask)


@_on_device_of_first
def add_layer_norm(
    x: Tensor, delta: Tensor | None, gate: Tensor | None, norm: nn.LayerNorm, scale: Tensor | None,
    shift: Tensor | None, offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `fused.add_layer_norm`; without delta the sum is x itself. Contiguous."""
    width = x.shape[-1]
    rows, tokens = x.numel() // width, x.shape[-2]
    total, out = x if delta is None else torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(width)
    block_rows = max(4096 // block, 1)
    gate, scale, shift = (_strided(v) for v in (gate, scale, shift))
    _add_layer_norm[(triton.cdiv(rows, block_rows),)](
        x, _or(delta, x), _or(gate, x), _or(norm.weight, x), _or(norm.bias, x), _or(scale, x), _or(shift, x),
        _or(offset, x), total, out, rows, tokens, width, *(_image_stride(v) for v in (gate, scale, shift)), norm.eps,
        ADD=delta is not None, GATE=gate is not None, AFFINE=norm.weight is not None,
        MODULATE=scale is not None, OFFSET=offset is not None, BLOCK_ROWS=block_rows, BLOCK=block,
    )  # fmt: skip
    return total, out


@triton.jit(
    do_not_specialize=[
        "rows", "n1", "n2", "n3", "n4", "d0", "d1", "d2", "d3", "d4", "o0", "o1", "o2", "o3", "o4",
        "delta_length", "out_length",
    ]
)
def _add_layer_norm_in_order(
    x, delta, weight, bias, total, out, rows, width, n1, n2, n3, n4,
    d0, d1, d2, d3, d4, o0, o1, o2, o3, o4, delta_length, out_length, eps,
    ADD: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.arange(0, BLOCK)
    inside = c < width
    there = row < rows
    mask = there[:, None] & inside[None, :]
    place = row.to(tl.int64)[:, None] * width + c[None, :]
    i4 = row % n4
    left = row // n4
    i3 = left % n3
    left = left // n3
    i2 = left % n2
    left = left // n2
    i1 = left % n1
    i0 = left // n1
    y = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        of_delta = (i0 * d0 + i1 * d1 + i2 * d2 + i3 * d3 + i4 * d4).to(tl.int64)
        given = (there & (i2 < delta_length))[:, None] & inside[None, :]
        y += tl.load(delta + of_delta[:, None] * width + c[None, :], mask=given, other=0.0).to(tl.float32)
        # Norm what is kept, rounded, as two operations would.
        rounded = y.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=mask)
        y = rounded.to(tl.float32)
    mean = tl.sum(y, 1) / width
    away = tl.where(mask, y - mean[:, None], 0.0)
    y = away / tl.sqrt(tl.sum(away * away, 1) / width + eps)[:, None]
    y = y * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    y += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    of_out = (i0 * o0 + i1 * o1 + i2 * o2 + i3 * o3 + i4 * o4).to(tl.int64)
    wanted = (there & (i2 < out_length))[:, None] & inside[None, :]
    tl.store(out + of_out[:, None] * width + c[None, :], y.to(out.dtype.element_ty), mask=wanted)


@_on_device_of_first
def add_layer_norm_in_order(
    x: Tensor, delta: Tensor | None, norm: nn.LayerNorm, order: tuple[int, ...], length: int
) -> tuple[Tensor, Tensor]:
    """See `fused.add_layer_norm_in_order`; x contiguous, the last axis of delta dense."""
    width = x.shape[-1]
    rows = x.numel() // width
    sizes = [length if axis == 2 else x.shape[axis] for axis in order]
    out = x.new_empty(*sizes, width)
    back = out.permute(*(order.index(axis) for axis in range(5)), 5)
    total = x if delta is None else torch.empty_like(x)
    given = x if delta is None else delta
    block = triton.next_power_of_2(width)
    block_rows = max(4096 // block, 1)
    _add_layer_norm_in_order[(triton.cdiv(rows, block_rows),)](
        x, given, norm.weight, norm.bias, total, out, rows, width, *x.shape[1:5],
        *(step // width for step in given.stride()[:5]), *(step // width for step in back.stride()[:5]),
        given.shape[2], length, norm.eps, ADD=delta is not None, BLOCK_ROWS=block_rows, BLOCK=block,
    )  # fmt: skip
    return total, out


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


@_on_device_of_first
def spread_phases(phases: Tensor, bias: Tensor) -> Tensor:
    """See `fused.spread_phases`: [batch, n + 1, n + 1, 4 channels], contiguous, to [batch, 2 n, 2 n, channels]."""
    batch, side, channels = len(phases), 2 * (phases.shape[1] - 1), len(bias)
    out = phases.new_empty(batch, side, side, channels)
    rows = batch * side * side
    grid = triton.cdiv(rows, 64), triton.cdiv(channels, 64)
    _spread_phases[grid](phases, bias, out, rows, side, channels, BLOCK_ROWS=64, BLOCK_CHANNELS=64)
    return out


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A tensor to pass where a kernel reads none."""
    return other if tensor is None else tensor


def _strided(values: Tensor | None) -> Tensor | None:
    """Values [1 or batch, 1, width] whose last axis is dense."""
    return values if values is None or values.stride(-1) == 1 else values.contiguous()


def _image_stride(values: Tensor | None) -> int:
    """Step from an image's values to the next one's; 0 when all share one."""
    return 0 if values is None or len(values) == 1 else values.stride(0)
