"""Colours continued beyond the borders of what is known."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def extend(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give every pixel outside the mask the colour of the nearest pixel inside.

    Returns:
        The image [h, w, c] and the distance of each pixel to the mask [h, w] in pixels, 0 inside.
    """
    label, distance = label_nearest(mask)
    nearest = np.zeros(int(label.max()) + 1, np.int64)
    inside = np.flatnonzero(mask)
    nearest[label.ravel()[inside]] = inside
    return image.reshape(-1, image.shape[2])[nearest[label]], distance


def label_nearest(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the pixels of a mask, each pixel outside as the nearest one inside.

    Returns:
        The numbers [h, w] int32, and the distance to the mask [h, w] float32 in pixels, 0 inside.
    """
    distance, label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return label, distance


def spread(values: Tensor, index: Tensor, label: np.ndarray) -> Tensor:
    """Lay values out as an image, every pixel outside as the nearest one inside.

    Args:
        values: [n, c] of the pixels inside.
        index: [n] their places in the flattened image.
        label: [h, w] what `label_nearest` gave.

    Returns:
        [h, w, c], on the device of the values.
    """
    number = torch.from_numpy(label.ravel()).to(values.device)
    table = values.new_zeros((int(label.max()) + 1, values.shape[1]))
    table[number[index].long()] = values
    return table[number].view(*label.shape, -1)
