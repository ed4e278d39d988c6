"""Group norm of sparse volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synchuman.nn.sparse_tensor import SparseTensor


class SparseGroupNorm(nn.GroupNorm):
    """Group norm (Wu and He 2018) with statistics over all voxels of a sample, in float32."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise [n, channels]."""
        return x.with_feats(torch.cat([self._normalise(sample) for sample in x.samples()]))

    def _normalise(self, feats: Tensor) -> Tensor:
        if not len(feats):
            return feats
        values = feats.float()
        # Over voxels first and over a group's channels last: rows are contiguous.
        mean = self._per_group(values.mean(0))
        variance = self._per_group((values - mean).square_().mean(0))
        scale = (variance + self.eps).rsqrt() * self.weight.float()
        return torch.addcmul(self.bias.float() - mean * scale, values, scale).to(feats.dtype)

    def _per_group(self, channels: Tensor) -> Tensor:
        """Replace [channels] by the mean of their group."""
        grouped = channels.unflatten(0, (self.num_groups, -1))
        return grouped.mean(1, keepdim=True).expand_as(grouped).flatten()
