"""A diffusion transformer block over lists of tokens, modulated by time and attending to a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synchuman.nn import fused
from synchuman.nn.attention import FusedCrossAttention, FusedSelfAttention, KeyValue

NORM_EPS = 1e-6


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Build a linear layer that gives zero until it is trained, so that an untrained branch does no harm."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ModulatedBlock(nn.Module):
    """Adaptive-norm transformer block (Peebles and Xie 2023, section 3.2) with cross attention between.

    Self attention and feed-forward are shifted, scaled and gated by the time; the cross attention is not.

    Args:
        width: Width of the tokens; divisible by `heads`.
        context_width: Width of the condition's tokens.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward layer over `width`.
    """

    def __init__(self, width: int, context_width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.self_attn = FusedSelfAttention(width, heads)
        self.cross_attn = FusedCrossAttention(width, context_width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )
        # Gates start closed (adaLN-Zero).
        self.modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width))

    def project(self, context: Tensor) -> KeyValue:
        """Project the condition [batch, tokens, context width] once for all steps."""
        return self.cross_attn.project(context)

    def forward(self, x: Tensor, time: Tensor, context: KeyValue, mask: Tensor | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: [batch, tokens, width].
            time: [1 or batch, width] embedded time.
            context: What `project` returned.
            mask: [batch, tokens] bool, the tokens that are there; None: all of them.

        Returns:
            [batch, tokens, width].
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(time)[:, None].chunk(6, dim=-1)
        attended = self.self_attn(fused.layer_norm(x, self.norm1, scale, shift), mask)
        x, normed = fused.add_layer_norm(x, attended, self.norm2, gate)
        x, normed = fused.add_layer_norm(
            x, self.cross_attn(normed, context), self.norm3, scale=mlp_scale, shift=mlp_shift
        )
        return torch.addcmul(x, mlp_gate, self.mlp(normed))
