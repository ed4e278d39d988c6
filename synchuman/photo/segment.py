"""The offline mask of one person: networks at several zooms, then colours (GrabCut) where they are unsure."""

from __future__ import annotations

import cv2
import numpy as np

from synchuman.photo.networks import Pose, estimate_pose, selfie_mask
from synchuman.photo.people import Person

WORK_SIDE = 448  # pixels of the person's surroundings: what GrabCut works on
POSE_MARGINS = (1.1, 1.25, 1.45)
SURROUNDINGS = 1.3  # of the body's circle
GRABCUT_ROUNDS = 2
SELFIE_SHARE = 0.2

SURELY_NOT = 0.15  # probability below which no colour can make a pixel part of the person

# Pairs of landmarks between which the body surely is.
LIMBS = (
    (11, 12), (11, 23), (12, 24), (23, 24), (11, 24), (12, 23), (11, 13), (13, 15), (12, 14), (14, 16),
    (23, 25), (25, 27), (24, 26), (26, 28), (27, 31), (28, 32),
)  # fmt: skip


def person_mask(rgb: np.ndarray, person: Person, others: list[Person]) -> np.ndarray:
    """Mask of one person.

    Args:
        rgb: [h, w, 3] uint8.
        person: Whose mask.
        others: Who else is in the photo and does not belong into it.

    Returns:
        [h, w] float32 in [0, 1], sharp at the scale of the photo / `WORK_SIDE`.
    """
    left, top, right, bottom = surroundings(person, rgb.shape[:2])
    view = rgb[top:bottom, left:right]
    scale = min(1.0, WORK_SIDE / max(view.shape[:2]))
    size = max(round(view.shape[1] * scale), 8), max(round(view.shape[0] * scale), 8)
    small = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    to_small = np.array([[size[0] / view.shape[1], 0, 0], [0, size[1] / view.shape[0], 0]])
    to_small[:, 2] = -to_small[:, :2] @ [left, top]

    pose = pose_probability(rgb, person, to_small, size)
    selfie = selfie_mask(small)
    probability = (1 - SELFIE_SHARE) * pose + SELFIE_SHARE * selfie
    for other in others:
        theirs = to_image(other.pose, other.pose.mask, to_small, size)
        probability = np.where(theirs > pose, np.minimum(probability, 0.02), probability)
    mask = cut_by_colour(small, probability, person, to_small)
    whole = np.zeros(rgb.shape[:2], np.float32)
    whole[top:bottom, left:right] = cv2.resize(mask, view.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return whole


def surroundings(person: Person, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) around the body's circle and landmarks, inside of the photo."""
    radius = person.circle.radius * SURROUNDINGS
    low = np.minimum(person.circle.centre - radius, person.box[:2])
    high = np.maximum(person.circle.centre + radius, person.box[2:])
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.minimum(np.ceil(high), shape[1::-1]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def to_image(pose: Pose, mask: np.ndarray, to_small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a mask from the pose network's crop to an image; `to_small` maps photo pixels to it."""
    back = np.vstack([cv2.invertAffineTransform(pose.transform), [0, 0, 1]])
    return cv2.warpAffine(mask, to_small @ back, size, flags=cv2.INTER_LINEAR)


def pose_probability(
    rgb: np.ndarray, person: Person, to_small: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Mean mask of the pose network over several zooms, each plain and mirrored."""
    total = np.zeros(size[::-1], np.float32)
    for margin in POSE_MARGINS:
        poses = [estimate_pose(rgb, person.circle, margin, mirrored) for mirrored in (False, True)]
        mask = (poses[0].mask + poses[1].mask) / 2
        total += to_image(poses[0], np.ascontiguousarray(mask), to_small, size)
    return total / len(POSE_MARGINS)


def cut_by_colour(
    small: np.ndarray, probability: np.ndarray, person: Person, to_small: np.ndarray
) -> np.ndarray:
    """Correct a probable mask by the photo's colours with GrabCut (Rother et al. 2004).

    Args:
        small: [h, w, 3] uint8.
        probability: [h, w] in [0, 1].
        person: For the limbs, which surely belong to the mask.
        to_small: [2, 3] from photo pixels to `small`.

    Returns:
        [h, w] float32 in [0, 1].
    """
    radius = person.circle.radius * float(to_small[0, 0])
    reach = max(round(0.1 * radius), 3)
    near = cv2.dilate((probability > 0.5).astype(np.uint8), disc(reach)) > 0
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    labels[near | (probability > SURELY_NOT)] = cv2.GC_PR_BGD
    labels[probability > 0.5] = cv2.GC_PR_FGD
    labels[cv2.erode((probability > 0.9).astype(np.uint8), disc(max(round(0.02 * radius), 1))) > 0] = (
        cv2.GC_FGD
    )
    labels[probability < SURELY_NOT] = cv2.GC_BGD
    limbs = draw_limbs(person.pose, to_small, small.shape, max(round(0.02 * radius), 1))
    labels[limbs & (probability > 0.3)] = cv2.GC_FGD
    if not (
        np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any()
        and np.isin(labels, (cv2.GC_BGD, cv2.GC_PR_BGD)).any()
    ):
        return probability.astype(np.float32)
    cv2.setRNGSeed(0)  # GrabCut clusters colours from a random start
    image = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    colours, others = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, labels, (0, 0, 0, 0), others, colours, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return connected(mask, probability).astype(np.float32)


def draw_limbs(pose: Pose, to_small: np.ndarray, shape: tuple[int, ...], thickness: int) -> np.ndarray:
    """Mask [h, w] of lines along the limbs that are seen."""
    points = np.rint(pose.landmarks @ to_small[:, :2].T + to_small[:, 2]).astype(int)
    lines = np.zeros(shape[:2], np.uint8)
    for start, end in LIMBS:
        if min(pose.visible[start], pose.visible[end]) > 0.6:
            cv2.line(lines, points[start].tolist(), points[end].tolist(), 1, thickness)
    return lines > 0


def connected(mask: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Keep the main piece and pieces that the networks believe in; fill pinholes that they do not see."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count <= 1:
        return mask
    largest = int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) + 1
    keep = np.zeros(count, bool)
    keep[largest] = True
    for piece in range(1, count):
        area = stats[piece, cv2.CC_STAT_AREA]
        if area > 0.002 * stats[largest, cv2.CC_STAT_AREA] and probability[pieces == piece].mean() > 0.6:
            keep[piece] = True
    mask = keep[pieces]
    count, holes, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    for hole in range(1, count):
        area = stats[hole, cv2.CC_STAT_AREA]
        if area < 0.01 * mask.sum() and probability[holes == hole].mean() > 0.6:
            mask[holes == hole] = True
    return mask


def disc(radius: int) -> np.ndarray:
    """Round structuring element."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
