"""The 2D transformer block whose attention crosses domains and views."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from synchuman.nn import fused
from synchuman.nn.attention import Attention, KeyValue
from synchuman.stage1.layout import count_groups, split
from synchuman.views import FACE, FRONT, NUM_BODY_VIEWS, NUM_VIEWS

# Orders of [domain, group, view, row, column]: twins side by side, and views beside each other in every row.
AS_IS, TWINS, LINES = (0, 1, 2, 3, 4), (1, 2, 0, 3, 4), (0, 1, 3, 2, 4)
# Tokens in one piece of the feed-forward layer, whose hidden values are eight times as wide.
PIECE = 1 << 16


def blend_face(images: Tensor) -> Tensor:
    """Mix the face view half and half into the part of the front view that it shows, in place.

    Args:
        images: [domain, group, view, rows, rows, width]; rows are a multiple of 3.

    Returns:
        `images`; rows 0 to rows / 3 and the middle third of the columns of the front views are changed.
    """
    third = images.shape[3] // 3
    front = images[:, :, FRONT, :third, third : 2 * third]
    # A bilinear resize to a third reads exactly the middle pixel of every 3 x 3.
    front.lerp_(images[:, :, FACE, 1::3, 1::3], 0.5)
    return images


class GatedFeedForward(FeedForward):
    """diffusers' gated feed-forward layer with its activation joined."""

    def __init__(self, width: int, mult: int = 4) -> None:
        super().__init__(width, mult=mult, activation_fn="geglu")

    @property
    def bias(self) -> Tensor:
        """[width] bias of the last layer."""
        return cast(nn.Linear, self.net[2]).bias

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Transform [..., width].

        Args:
            x: What to transform.
            onto: Like `x`, what the result is added to, without the last bias; without gradients it is
                overwritten.
        """
        first, last = cast(GEGLU, self.net[0]).proj, cast(nn.Linear, self.net[2])
        if onto is None:
            return last(fused.geglu(first(x)))
        if torch.is_grad_enabled():
            return onto + nn.functional.linear(fused.geglu(first(x)), last.weight)
        pieces = (rows.flatten(0, -2).split(PIECE) for rows in (onto, x))
        for sums, piece in zip(*pieces, strict=True):
            # The product adds to the stream itself: one pass over it less.
            sums.addmm_(fused.geglu(first(piece)), last.weight.t())
        return onto


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
        images = split(x.unflatten(1, (rows, rows)))  # [domain, group, view, row, column, width]
        _, twins = fused.add_layer_norm_in_order(images, None, self.norm1, TWINS, NUM_VIEWS)
        images, lines = fused.add_layer_norm_in_order(
            images, self.attend_domains(twins), self.norm_mv, LINES, NUM_BODY_VIEWS
        )
        images, normed = fused.add_layer_norm_in_order(
            images, self.attend_rows(lines), self.norm2, AS_IS, NUM_VIEWS
        )
        x, normed = images.view(x.shape), normed.view(x.shape)
        x, normed = fused.add_layer_norm(x, self.attn2(normed, prompt), self.norm3, offset=self.ff.bias)
        return self.ff(normed, onto=x)

    def attend_domains(self, twins: Tensor) -> Tensor:
        """Let a normal image and its colour twin attend to both, then blend the face.

        Args:
            twins: [group, view, domain, row, column, width].

        Returns:
            [domain, group, view, row, column, width].
        """
        both = self.attn1(twins.flatten(2, 4).flatten(0, 1)).view(twins.shape)
        return blend_face(both.permute(2, 0, 1, 3, 4, 5))

    def attend_rows(self, lines: Tensor) -> Tensor:
        """Let every image row attend to its row in the four body views.

        Args:
            lines: [domain, group, row, view, column, width], body views only.

        Returns:
            [domain, group, view, row, column, width].
        """
        attended = self.attn_mv(lines.flatten(3, 4).flatten(0, 2))
        return attended.view(lines.shape).transpose(2, 3)


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
