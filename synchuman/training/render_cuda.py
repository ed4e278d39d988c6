"""The z-buffer of `render` as a CUDA kernel: a thread per triangle, 64-bit atomic maxima."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SOURCE = r"""
extern "C" __global__ void zbuffer(const float* points, const int* triangles, int count, int height,
                                   int width, int both, unsigned long long* keys) {
    int f = blockIdx.x * blockDim.x + threadIdx.x;
    if (f >= count) return;
    const float* a = points + 3 * triangles[3 * f];
    const float* b = points + 3 * triangles[3 * f + 1];
    const float* c = points + 3 * triangles[3 * f + 2];
    float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    if (fabsf(area) < 1e-9f) return;
    int left = max((int)ceilf(fminf(a[0], fminf(b[0], c[0])) - 0.5f), 0);
    int right = min((int)floorf(fmaxf(a[0], fmaxf(b[0], c[0])) - 0.5f), width - 1);
    int top = max((int)ceilf(fminf(a[1], fminf(b[1], c[1])) - 0.5f), 0);
    int bottom = min((int)floorf(fmaxf(a[1], fmaxf(b[1], c[1])) - 0.5f), height - 1);
    float inverse = 1.0f / area;
    for (int row = top; row <= bottom; ++row)
        for (int column = left; column <= right; ++column) {
            float x = column + 0.5f, y = row + 0.5f;
            float wa = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) * inverse;
            float wb = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) * inverse;
            float wc = 1.0f - wa - wb;
            if (wa < -1e-5f || wb < -1e-5f || wc < -1e-5f) continue;
            float depth = wa * a[2] + wb * b[2] + wc * c[2];
            for (int layer = 0; layer <= both; ++layer) {
                // Flip float bits so that unsigned integers order as the floats do; 0 is left for "nothing".
                unsigned int bits = __float_as_uint(layer ? -depth : depth);
                bits = (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
                unsigned long long key = ((unsigned long long)bits << 32) | (unsigned int)(f + 1);
                atomicMax(keys + ((size_t)layer * height + row) * width + column, key);
            }
        }
}
"""


@lru_cache(maxsize=1)
def _kernel() -> Any:
    import cupy

    return cupy.RawKernel(SOURCE, "zbuffer")


def face_ids(points: Tensor, triangles: Tensor, height: int, width: int, both: bool) -> Tensor:
    """[1 or 2, H, W] int32 triangle seen at each pixel from the near (and the far) side, -1 where none."""
    import cupy

    layers = 2 if both else 1
    keys = torch.zeros(layers, height, width, dtype=torch.int64, device=points.device)
    count = len(triangles)
    corners = triangles.to(torch.int32).contiguous()
    with (
        cupy.cuda.Device(points.device.index),
        cupy.cuda.ExternalStream(torch.cuda.current_stream(points.device).cuda_stream),
    ):
        _kernel()(
            ((count + 127) // 128,),
            (128,),
            (
                points.data_ptr(),
                corners.data_ptr(),
                cupy.int32(count),
                cupy.int32(height),
                cupy.int32(width),
                cupy.int32(both),
                keys.data_ptr(),
            ),
        )
    return (keys & 0xFFFFFFFF).to(torch.int32) - 1
