"""Attention: one function for the product of queries, keys and values, and the layers that project them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synchuman.nn import fused

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


def joined(*weights: Tensor) -> Tensor | None:
    """Return weights [rows, columns] that follow one another in memory as one [all rows, columns].

    None when they lie apart, or when gradients are wanted, which would not find their way back.
    """
    first, end = weights[0], weights[0].storage_offset()
    for weight in weights:
        if (
            weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
            or weight.storage_offset() != end
            or not weight.is_contiguous()
        ):
            return None
        end += weight.numel()
    if torch.is_grad_enabled() and first.requires_grad:
        return None
    return first.detach().as_strided((sum(len(w) for w in weights), first.shape[1]), first.stride())


class MultiHeadRMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019) with its own gains for every head.

    Shapes: [..., heads, head width] in and out; computed in float32.
    """

    def __init__(self, heads: int, head_width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_width))

    def forward(self, x: Tensor) -> Tensor:
        return fused.rms_norm(x, self.gamma)


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
        if context is not None:
            return self.to_out(attend(self.query(x), *context))
        weight = joined(self.to_q.weight, self.to_k.weight, self.to_v.weight)
        if weight is None:
            return self.to_out(attend(self.query(x), *self.project(x)))
        return self.to_out(attend(*F.linear(x, weight).unflatten(-1, (3, self.heads, -1)).unbind(-3)))

    def join(self) -> None:
        """Lay the projections of a self attention end to end in memory: one product instead of three."""
        layers = (self.to_q, self.to_k, self.to_v)
        weights = [layer.weight for layer in layers]
        if weights[0].shape == weights[1].shape and joined(*weights) is None:
            for layer, part in zip(layers, torch.cat([w.data for w in weights]).chunk(3), strict=True):
                layer.weight.data = part


class FusedSelfAttention(nn.Module):
    """Self attention with one fused projection; queries and keys are RMS-normed per head."""

    def __init__(self, width: int, heads: int, normalise: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.normalise = normalise
        self.to_qkv = nn.Linear(width, 3 * width)
        self.q_rms_norm = MultiHeadRMSNorm(heads, width // heads) if normalise else nn.Identity()
        self.k_rms_norm = MultiHeadRMSNorm(heads, width // heads) if normalise else nn.Identity()
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each list of tokens; [batch, tokens, width] in and out, mask as in `attend`."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        return self.to_out(attend(*self.normalised(qkv), mask))

    def normalised(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys, values of [..., 3, heads, head width], which may be overwritten."""
        q_norm, k_norm = self.q_rms_norm, self.k_rms_norm
        if isinstance(q_norm, MultiHeadRMSNorm) and isinstance(k_norm, MultiHeadRMSNorm):
            return fused.normalise_heads(qkv, q_norm.gamma, k_norm.gamma)
        query, key, value = qkv.unbind(-3)
        return query, key, value


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
