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
        grouped = feats.float().unflatten(1, (self.num_groups, -1))
        mean = grouped.mean(dim=(0, 2), keepdim=True)
        deviation = (grouped - mean).square_().mean(dim=(0, 2), keepdim=True)
        scale = (deviation + self.eps).rsqrt() * self.weight.float().view(self.num_groups, -1)
        shift = self.bias.float().view(self.num_groups, -1) - mean * scale
        return torch.addcmul(shift, grouped, scale).flatten(1).to(feats.dtype)
