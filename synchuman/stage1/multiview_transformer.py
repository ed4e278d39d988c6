"""The 2D transformer block whose attention crosses domains and views."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from synchuman.nn.attention import Attention, KeyValue
from synchuman.stage1.layout import COLOR, NORMAL, count_groups, split
from synchuman.views import FACE, FRONT, NUM_BODY_VIEWS


def blend_face(x: Tensor, rows: int) -> Tensor:
    """Mix the face view half and half into the part of the front view that it shows.

    Args:
        x: [B, rows * rows, width] tokens of all images, see `layout`.
        rows: Rows (and columns) of the map, a multiple of 3.

    Returns:
        Like `x`; rows 0 to rows / 3 and the middle third of the columns of the front views are changed.
    """
    third = rows // 3
    images = split(x.unflatten(1, (rows, rows)))
    front = images[:, :, FRONT]
    # A bilinear resize to a third reads exactly the middle pixel of every 3 x 3.
    face = images[:, :, FACE, 1::3, 1::3]
    mixed = (front[:, :, :third, third : 2 * third] + face) / 2
    top = torch.cat([front[:, :, :third, :third], mixed, front[:, :, :third, 2 * third :]], dim=3)
    front = torch.cat([top, front[:, :, third:]], dim=2)
    return torch.cat([front[:, :, None], images[:, :, FRONT + 1 :]], dim=2).flatten(0, 2).flatten(1, 2)


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
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, x: Tensor, rows: int, prompt: KeyValue) -> Tensor:
        """Transform [B, rows * rows, width] tokens; `prompt` holds the projected prompts of the B images."""
        x = x + self.attend_domains(self.norm1(x), rows)
        body = self.attend_rows(self.norm_mv(split(x)[:, :, :NUM_BODY_VIEWS].flatten(0, 2)), rows)
        body = nn.functional.pad(body.unflatten(0, (2, -1, NUM_BODY_VIEWS)), (0, 0, 0, 0, 0, 1))
        x = x + body.flatten(0, 2)
        x = x + self.attn2(self.norm2(x), prompt)
        return x + self.ff(self.norm3(x))

    def attend_domains(self, x: Tensor, rows: int) -> Tensor:
        """Let a normal image and its colour twin attend to both, then blend the face; [B, tokens, width]."""
        normal, color = x.chunk(2)
        both = self.attn1(torch.cat([normal, color], dim=1)).chunk(2, dim=1)
        return blend_face(torch.cat([both[NORMAL], both[COLOR]]), rows)

    def attend_rows(self, x: Tensor, rows: int) -> Tensor:
        """Let every image row attend to its row in the four body views.

        Args:
            x: [domain * group * view, rows * rows, width], body views only.
            rows: Rows (and columns) of the map.

        Returns:
            Like `x`.
        """
        width = x.shape[-1]
        x = x.reshape(-1, NUM_BODY_VIEWS, rows, rows, width).transpose(1, 2)
        x = self.attn_mv(x.reshape(-1, NUM_BODY_VIEWS * rows, width))
        return (
            x.reshape(-1, rows, NUM_BODY_VIEWS, rows, width).transpose(1, 2).reshape(-1, rows * rows, width)
        )


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
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        tokens = self.proj_out(self.block(tokens, rows, prompt))
        return x + tokens.transpose(1, 2).unflatten(2, (rows, rows))
