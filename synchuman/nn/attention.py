"""Attention: one function for the product of queries, keys and values, and the layers that project them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Keys and values of a context, each [batch, tokens, heads, head width].
KeyValue = tuple[Tensor, Tensor]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) over token axis 1.

    Args:
        query: [batch, queries, heads, head width].
        key: [batch, tokens, heads, head width].
        value: Like `key`.
        mask: [batch, tokens] bool, the tokens that are there; None: all of them.

    Returns:
        [batch, queries, heads * head width].
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    used = None if mask is None else mask[:, None, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=used)
    return mixed.transpose(1, 2).flatten(2)


class MultiHeadRMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019) with its own gains for every head.

    Shapes: [..., heads, head width] in and out; computed in float32.
    """

    def __init__(self, heads: int, head_width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_width))
        self.scale = head_width**0.5

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(x.float(), dim=-1) * self.gamma * self.scale).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with separate, bias-free projections.

    Args:
        width: Width of the queries' tokens and of the result.
        context_width: Width of the context's tokens.
        heads: Number of heads.
        head_width: Width of a head; heads * head_width need not equal `width`.
    """

    def __init__(self, width: int, context_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width, inner, bias=False)
        self.to_v = nn.Linear(context_width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)

    def query(self, x: Tensor) -> Tensor:
        """Project [..., width] to [..., heads, head width]."""
        return self.to_q(x).unflatten(-1, (self.heads, -1))

    def project(self, context: Tensor) -> KeyValue:
        """Project [..., context width] to keys and values [..., heads, head width]."""
        shape = (self.heads, -1)
        return self.to_k(context).unflatten(-1, shape), self.to_v(context).unflatten(-1, shape)

    def forward(self, x: Tensor, context: KeyValue | None = None) -> Tensor:
        """Attend from x [batch, queries, width] to a projected context, or to x itself."""
        key, value = self.project(x) if context is None else context
        return self.to_out(attend(self.query(x), key, value))


class FusedSelfAttention(nn.Module):
    """Self attention with one fused projection; queries and keys are RMS-normed per head."""

    def __init__(self, width: int, heads: int, normalise: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = MultiHeadRMSNorm(heads, width // heads) if normalise else nn.Identity()
        self.k_rms_norm = MultiHeadRMSNorm(heads, width // heads) if normalise else nn.Identity()
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each list of tokens; [batch, tokens, width] in and out, mask as in `attend`."""
        query, key, value = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.to_out(attend(self.q_rms_norm(query), self.k_rms_norm(key), value, mask))


class FusedCrossAttention(nn.Module):
    """Cross attention with one projection for keys and values."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(context_width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def project(self, context: Tensor) -> KeyValue:
        """Project [batch, tokens, context width] to keys and values."""
        key, value = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return key, value

    def forward(self, x: Tensor, context: KeyValue) -> Tensor:
        """Attend from x [batch, queries, width] to a projected context."""
        return self.to_out(attend(self.to_q(x).unflatten(-1, (self.heads, -1)), *context))
