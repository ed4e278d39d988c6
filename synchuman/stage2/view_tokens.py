"""What every voxel sees in the four body views: tokens found by projecting it along the views' axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from synchuman.nn.sparse_tensor import Voxels
from synchuman.views import NUM_BODY_VIEWS, VIEWS

# Views by the axis that their columns follow: both of a pair show a voxel at the same place of the image.
PAIRS = tuple(
    tuple(view for view in range(NUM_BODY_VIEWS) if VIEWS[view].column_axis == axis) for axis in range(2)
)


@dataclass(frozen=True)
class ViewTokens:
    """Tokens of the four body views.

    Attributes:
        color: [batch, 4, side, side, channels], from the colour images.
        normal: Like `color`, from the normal images.
    """

    color: Tensor
    normal: Tensor

    def __post_init__(self) -> None:
        shape = self.color.shape
        if (
            self.normal.shape != shape
            or len(shape) != 5
            or shape[1] != NUM_BODY_VIEWS
            or shape[2] != shape[3]
        ):
            raise ValueError(
                f"View tokens must be [batch, {NUM_BODY_VIEWS}, side, side, channels] for colours and normals"
                f" alike; got {list(shape)} and {list(self.normal.shape)}."
            )


@dataclass(frozen=True)
class SeenTokens:
    """The tokens that voxels see, each once; a body's silhouette covers far fewer than there are voxels.

    Attributes:
        tokens: Per pair of views (`PAIRS`): [seen, 2 domains (normal, colour), 2 views, channels].
        rows: Per pair of views: for every voxel the row in `tokens`, [n].
    """

    tokens: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]


def find_seen(views: ViewTokens, voxels: Voxels, resolution: int) -> SeenTokens:
    """Return the tokens that the voxels of a grid of `resolution` see.

    Raises:
        ValueError: There are not as many samples of views as of voxels.
    """
    batch, side = views.color.shape[0], views.color.shape[2]
    if batch != voxels.batch:
        raise ValueError(
            f"{batch} samples of view tokens for {voxels.batch} samples of voxels: give one for each."
        )
    sample = voxels.coords[:, 0]
    row = (resolution - 1 - voxels.coords[:, 3]) * side // resolution
    tokens, rows = [], []
    for axis, pair in enumerate(PAIRS):
        column = voxels.coords[:, 1 + axis] * side // resolution
        place, inverse = torch.unique((sample * side + row) * side + column, return_inverse=True)
        at = (place // (side * side), place // side % side, place % side)
        seen = [images[at[0], view, at[1], at[2]] for images in (views.normal, views.color) for view in pair]
        tokens.append(torch.stack(seen, dim=1).unflatten(1, (2, len(pair))))
        rows.append(inverse)
    return SeenTokens(tuple(tokens), tuple(rows))


class MultiviewLayer(nn.Sequential):
    """Two linear layers on a voxel's features and the tokens it sees, four of normals, then four of colours.

    The first layer is applied to each token once, not once per voxel that sees it, and the results are added.
    """

    def __init__(self, width: int, view_width: int, hidden: int) -> None:
        inputs = width + 2 * NUM_BODY_VIEWS * view_width
        super().__init__(nn.Linear(inputs, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.width = width
        self.view_width = view_width

    def forward(self, h: Tensor, seen: SeenTokens) -> Tensor:  # type: ignore[override]
        """Map [n, width], with tokens projected to `view_width`, to [n, width]."""
        first = cast(nn.Linear, self[0])
        total = nn.functional.linear(h, first.weight[:, : self.width], first.bias)
        for pair, tokens, rows in zip(PAIRS, seen.tokens, seen.rows, strict=True):
            parts = [
                nn.functional.linear(tokens[:, domain, place], self._columns(first.weight, domain, view))
                for domain in range(2)
                for place, view in enumerate(pair)
            ]
            total = total + torch.stack(parts).sum(0)[rows]
        return self[2](self[1](total))

    def _columns(self, weight: Tensor, domain: int, view: int) -> Tensor:
        start = self.width + (domain * NUM_BODY_VIEWS + view) * self.view_width
        return weight[:, start : start + self.view_width]
