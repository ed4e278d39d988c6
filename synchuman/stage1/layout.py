"""How images, sample groups and domains share one batch.

A *group* is everything that belongs to one sample: one human, or one half (unconditional, conditional) of a
guided step. The 2D batch holds domain, group, view, the last fastest: image (d * groups + g) * 5 + v. Domain
0 is the normals, domain 1 the colours; views follow `views.VIEWS`. The 3D batch holds one entry per group.
"""

from __future__ import annotations

from torch import Tensor

from synchuman.views import NUM_VIEWS

DOMAINS = 2
NORMAL, COLOR = range(DOMAINS)
IMAGES_PER_GROUP = DOMAINS * NUM_VIEWS


def count_groups(batch: int) -> int:
    """Return the number of groups in a 2D batch.

    Raises:
        ValueError: The batch is no multiple of ten images.
    """
    if batch == 0 or batch % IMAGES_PER_GROUP:
        raise ValueError(
            f"A batch holds 10 images (2 domains x 5 views) per group; {batch} is no multiple of 10."
        )
    return batch // IMAGES_PER_GROUP


def split(x: Tensor) -> Tensor:
    """Unfold a 2D batch [B, ...] to [domain, group, view, ...]."""
    return x.unflatten(0, (DOMAINS, count_groups(x.shape[0]), NUM_VIEWS))


def per_image(x: Tensor, groups: int) -> Tensor:
    """Repeat values of groups [1 or groups, ...] for every image of the 2D batch [10 * groups, ...]."""
    x = x.expand(groups, *x.shape[1:])
    return x[None, :, None].expand(DOMAINS, groups, NUM_VIEWS, *x.shape[1:]).flatten(0, 2)
