"""Triton kernels behind `nn.fused`; importing this needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from synchuman.nn.triton_maps import add_biased, group_norm, on_device_of_first, spread_phases

__all__ = [
    "add_biased",
    "add_layer_norm",
    "add_layer_norm_in_order",
    "geglu",
    "group_norm",
    "normalise_heads_",
    "spread_phases",
]


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


@on_device_of_first
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


@on_device_of_first
def normalise_heads_(qkv: Tensor, q_gamma: Tensor, k_gamma: Tensor) -> None:
    """RMS-norm queries and keys of [..., 3, heads, head width] in place; contiguous."""
    heads, width = qkv.shape[-2:]
    rows = qkv.numel() // (3 * heads * width)
    _normalise_heads[(rows, 2)](
        qkv, q_gamma, k_gamma, rows, width, heads, width**0.5,
        BLOCK_HEADS=triton.next_power_of_2(heads), BLOCK_WIDTH=triton.next_power_of_2(width),
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "tokens"])
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


@on_device_of_first
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
        _or(offset, x), total, out, rows, tokens, width,
        *(_image_stride(v) for v in (gate, scale, shift)), norm.eps,
        ADD=delta is not None, GATE=gate is not None, AFFINE=norm.weight is not None,
        MODULATE=scale is not None, OFFSET=offset is not None, BLOCK_ROWS=block_rows, BLOCK=block,
    )  # fmt: skip
    return total, out


@triton.jit(
    do_not_specialize=[
        "rows",
        "n1",
        "n2",
        "n3",
        "n4",
        "d0",
        "d1",
        "d2",
        "d3",
        "d4",
        "o0",
        "o1",
        "o2",
        "o3",
        "o4",
        "delta_length",
        "out_length",
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


@on_device_of_first
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


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A tensor to pass where a kernel reads none."""
    return other if tensor is None else tensor


def _strided(values: Tensor | None) -> Tensor | None:
    """Values [1 or batch, 1, width] whose last axis is dense."""
    return values if values is None or values.stride(-1) == 1 else values.contiguous()


def _image_stride(values: Tensor | None) -> int:
    """Step from an image's values to the next one's; 0 when all share one."""
    return 0 if values is None or len(values) == 1 else values.stride(0)
