"""Submanifold convolution (Graham et al. 2018): gather the neighbours of some voxels, multiply, go on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn.sparse_tensor import AXIS_BITS, CHILDREN, SparseTensor, Voxels, child_offsets, voxel_keys

OFFSETS = 27  # of a 3^3 kernel; offset k reads the voxel at (k // 9, k // 3 % 3, k % 3) - 1

# Gathered values at a time: on a CPU what its cache holds, on a GPU enough to fill it.
CPU_VALUES = 1 << 21
GPU_VALUES = 1 << 27

# Per axis: which taps of a 3-kernel at child o of a voxel fall on the voxel at o + j - 1; [o][j][tap].
_FOLD = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def find_neighbours(voxels: Voxels) -> Tensor:
    """Return each voxel's neighbour's row at every offset, [n, 27] int32, n where there is none.

    Worked out on first use.
    """
    return voxels.cached("neighbours", lambda: _find_neighbours(voxels))


def _find_neighbours(voxels: Voxels) -> Tensor:
    if voxels.parent is not None:
        return _find_child_neighbours(voxels.parent)
    dx, dy, dz = _kernel(voxels.coords.device).unbind(1)
    steps = ((dx << AXIS_BITS) + dy << AXIS_BITS) + dz
    found = voxels.find(voxel_keys(voxels.coords)[:, None] + steps)
    return found.masked_fill_(found < 0, len(voxels)).int()


def _find_child_neighbours(parent: Voxels) -> Tensor:
    """A child's neighbour is a child of the parent's neighbour, so nothing needs to be looked up again."""
    device = parent.coords.device
    place = child_offsets(device)[:, None] + _kernel(device)  # [children, 27, 3], -1 to 2
    step, child = place.div(2, rounding_mode="floor") + 1, place.remainder(2)
    which = (step[..., 0] * 3 + step[..., 1]) * 3 + step[..., 2]
    within = (child[..., 0] * 2 + child[..., 1]) * 2 + child[..., 2]
    rows = find_neighbours(parent)[:, which] * CHILDREN + within.int()
    # A missing neighbour's rows start at the number of children, whatever the child.
    return rows.clamp_(max=CHILDREN * len(parent)).flatten(0, 1)


def _kernel(device: torch.device) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(-1, 2, device=device),) * 3)


def _gather_multiply(padded: Tensor, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply gathered rows with a weight.

    Args:
        padded: [n + 1, in], the last row zero.
        rows: [m, taps].
        weight: [out, taps * in].
        bias: [out].

    Returns:
        [m, out].
    """
    chunks = rows.split(_chunk_length(weight.shape[1], padded))
    if torch.is_grad_enabled():
        return torch.cat([F.linear(F.embedding(some, padded).flatten(1), weight, bias) for some in chunks])
    # Results kept between the gathered chunks would leave holes that no next chunk fits in.
    result = padded.new_empty(len(rows), len(weight))
    for some, part in zip(chunks, result.split(len(chunks[0])), strict=True):
        torch.addmm(bias, F.embedding(some, padded).flatten(1), weight.T, out=part)
    return result


def _chunk_length(values: int, like: Tensor) -> int:
    """Rows of so many gathered values that are multiplied at a time."""
    return max((GPU_VALUES if like.is_cuda else CPU_VALUES) // values, 1)


class _Convolution(torch.autograd.Function):
    """The convolution with a backward pass that gathers too: no scattered sums, nothing gathered is kept.

    A voxel is its neighbour's neighbour at the mirrored offset, so the gradient of the features is itself a
    submanifold convolution, with the kernel mirrored and transposed.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx: Any, feats: Tensor, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve feats [n, in] over rows [n, 27] with weight [out, 27, in] and bias [out]."""
        if torch.is_autocast_enabled(feats.device.type):
            dtype = torch.get_autocast_dtype(feats.device.type)
            feats, weight, bias = feats.to(dtype), weight.to(dtype), bias.to(dtype)
        ctx.save_for_backward(feats, rows, weight)
        with torch.no_grad():
            return _gather_multiply(F.pad(feats, (0, 0, 0, 1)), rows, weight.flatten(1), bias)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of feats, weight and bias."""
        feats, rows, weight = ctx.saved_tensors
        grad = grad.to(feats.dtype)
        mirrored = weight.flip(1).permute(2, 1, 0).flatten(1)  # [in, 27 out]
        none = grad.new_zeros(feats.shape[1])
        of_feats = _gather_multiply(F.pad(grad, (0, 0, 0, 1)), rows, mirrored, none)
        padded = F.pad(feats, (0, 0, 0, 1))
        count = _chunk_length(weight[0].numel(), feats)
        of_weight = torch.zeros(len(weight), weight[0].numel(), dtype=torch.float32, device=grad.device)
        for some, part in zip(rows.split(count), grad.split(count), strict=True):
            of_weight += (part.T @ F.embedding(some, padded).flatten(1)).float()
        of_bias = grad.float().sum(0)
        return of_feats, None, of_weight.view(weight.shape), of_bias


class SparseConv3d(nn.Module):
    """Submanifold 3^3 convolution: the result lives at the voxels of the input.

    out[p] = bias + sum over offsets k of weight[:, k] in[p + k - 1], voxels that do not exist being zero.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=(OFFSETS * in_channels) ** -0.5)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve [n, in channels] to [n, out channels]."""
        rows, weight = find_neighbours(x.voxels), self.weight.flatten(1, 3)
        return x.with_feats(_Convolution.apply(x.feats, rows, weight, self.bias))

    def subdivided(self, x: SparseTensor) -> SparseTensor:
        """Convolve the subdivision of x, without building it.

        The eight children of a voxel have equal features, so the 27 taps at a child fall on 8 voxels of x and
        can be summed beforehand: products with 8 instead of 27 times the input.

        Returns:
            [8 n, out channels] at `x.voxels.subdivided()`: `self(subdivide(x))` up to rounding.
        """
        device = self.weight.device
        fold = torch.tensor(_FOLD, device=device)
        taps = torch.einsum("uax,vby,wcz,mxyzn->uvwmabcn", fold, fold, fold, self.weight.float())
        taps = taps.to(self.weight.dtype).flatten(4).flatten(0, 2)  # [child, out, 8 in]
        step = child_offsets(device)[:, None] + child_offsets(device)  # [child, tap, 3], 0 to 2
        which = (step[..., 0] * 3 + step[..., 1]) * 3 + step[..., 2]
        padded, rows = F.pad(x.feats, (0, 0, 0, 1)), find_neighbours(x.voxels)
        children = [
            _gather_multiply(padded, rows[:, which[child]], taps[child], self.bias)
            for child in range(CHILDREN)
        ]
        return SparseTensor(torch.stack(children, dim=1).flatten(0, 1), x.voxels.subdivided())


class PointwiseSparseConv3d(nn.Module):
    """A 1^3 convolution as the published weights mean it.

    They are stored as [out, 1, 1, 1, in], but were trained with that memory read as an [in, out] matrix:
    neither the matrix that the shape suggests nor its transpose.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 1, 1, 1, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.normal_(self.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, in channels] to [n, out channels]."""
        out_channels, in_channels = self.weight.shape[0], self.weight.shape[-1]
        return torch.addmm(self.bias, x, self.weight.reshape(in_channels, out_channels))
