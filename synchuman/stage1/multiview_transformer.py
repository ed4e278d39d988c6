"""The 2D transformer block whose attention crosses domains and views."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from synchuman.nn import fused
from synchuman.nn.attention import Attention, KeyValue
from synchuman.stage1.layout import DOMAINS, count_groups, split
from synchuman.views import FACE, FRONT, NUM_BODY_VIEWS


def blend_face(x: Tensor, rows: int) -> Tensor:
    """Mix the face view half and half into the part of the front view that it shows, in place.

    Args:
        x: [B, rows * rows, width] tokens of all images, see `layout`.
        rows: Rows (and columns) of the map, a multiple of 3.

    Returns:
        `x`; rows 0 to rows / 3 and the middle third of the columns of the front views are changed.
    """
    third = rows // 3
    images = split(x.unflatten(1, (rows, rows)))
    front = images[:, :, FRONT, :third, third : 2 * third]
    # A bilinear resize to a third reads exactly the middle pixel of every 3 x 3.
    front.add_(images[:, :, FACE, 1::3, 1::3]).mul_(0.5)
    return x


class GatedFeedForward(FeedForward):
    """diffusers' gated feed-forward layer with its activation joined."""

    def __init__(self, width: int, mult: int = 4) -> None:
        super().__init__(width, mult=mult, activation_fn="geglu")

    def forward(self, x: Tensor) -> Tensor:
        """Transform [..., width]."""
        return self.net[2](fused.geglu(cast(GEGLU, self.net[0]).proj(x)))


class MultiviewBlock(nn.Module):
    """Attention across domains, along rows across body views, to the prompt; then a gated feed-forward layer.

    Row-wise multiview attention follows Era3D (Li et al. 2024, section 3.3): with orthographic views at one
    height, a point stays in its image row in all four body views.
    """

    def __init__(self, width: int, heads: int, prompt_width: int) -> None:
        super().__init__()
        head_width = width // heads
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads, head_width)
        self.norm_mv = nn.LayerNorm(width)
        self.attn_mv = Attention(width, width, heads, head_width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, prompt_width, heads, head_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GatedFeedForward(width)

    def forward(self, x: Tensor, rows: int, prompt: KeyValue) -> Tensor:
        """Transform [B, rows * rows, width] tokens; `prompt` holds the projected prompts of the B images."""
        x, normed = fused.add_layer_norm(
            x, self.attend_domains(fused.layer_norm(x, self.norm1), rows), self.norm_mv
        )
        x = _add_to_body(x, self.attend_rows(split(normed)[:, :, :NUM_BODY_VIEWS], rows))
        x, normed = fused.add_layer_norm(x, self.attn2(fused.layer_norm(x, self.norm2), prompt), self.norm3)
        return x + self.ff(normed)

    def attend_domains(self, x: Tensor, rows: int) -> Tensor:
        """Let a normal image and its colour twin attend to both, then blend the face; [B, tokens, width]."""
        twins = x.unflatten(0, (DOMAINS, -1)).transpose(0, 1)
        both = self.attn1(twins.flatten(1, 2)).unflatten(1, (DOMAINS, -1))
        return blend_face(both.transpose(0, 1).flatten(0, 1).contiguous(), rows)

    def attend_rows(self, x: Tensor, rows: int) -> Tensor:
        """Let every image row attend to its row in the four body views.

        Args:
            x: [domain, group, view, rows * rows, width], body views only.
            rows: Rows (and columns) of the map.

        Returns:
            Like `x`.
        """
        lines = x.unflatten(3, (rows, rows)).transpose(2, 3)  # [domain, group, row, view, column, width]
        attended = self.attn_mv(lines.flatten(3, 4).flatten(0, 2))
        return attended.view(lines.shape).transpose(2, 3).flatten(3, 4)


def _add_to_body(x: Tensor, update: Tensor) -> Tensor:
    """Add [domain, group, body view, tokens, width] to the body views of [B, tokens, width]."""
    if torch.is_grad_enabled():  # then x is needed as it is for the gradients
        return x + nn.functional.pad(update, (0, 0, 0, 0, 0, 1)).flatten(0, 2)
    split(x)[:, :, :NUM_BODY_VIEWS].add_(update)
    return x


class MultiviewTransformer(nn.Module):
    """A multiview block on maps: group norm and projection before, projection and residual after."""

    def __init__(self, width: int, heads: int, prompt_width: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.block = MultiviewBlock(width, heads, prompt_width)
        self.proj_out = nn.Linear(width, width)

    def project(self, prompts: Tensor) -> KeyValue:
        """Project prompts [B, tokens, prompt width] once for all steps."""
        return self.block.attn2.project(prompts)

    def forward(self, x: Tensor, prompt: KeyValue) -> Tensor:
        """Transform maps [B, width, rows, rows]."""
        count_groups(x.shape[0])
        rows = x.shape[2]
        # Channels last are tokens already.
        tokens = self.proj_in(fused.group_norm(x, self.norm).movedim(1, -1).flatten(1, 2))
        tokens = self.proj_out(self.block(tokens, rows, prompt))
        return x + tokens.unflatten(1, (rows, rows)).movedim(-1, 1)
