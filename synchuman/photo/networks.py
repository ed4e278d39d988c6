"""MediaPipe's three person networks as ONNX files: who is where, the pose and the mask of one person."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import onnxruntime

LOGGER = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "matting"
MAX_THREADS = 4  # the networks are too small to use more

DETECTION_SIDE = 224
# Grid side and anchors per cell of the detector's outputs, in their order.
DETECTION_GRIDS = ((28, 2), (14, 2), (7, 6))
POSE_SIDE = 256
SELFIE_SIDE = 256
NUM_LANDMARKS = 33
POSE_MARGIN = 1.25  # the pose network wants this much room around the body's circle


@cache
def session(name: str) -> onnxruntime.InferenceSession:
    """Load one network of `assets/matting/` onto the CPU, once per process.

    Raises:
        FileNotFoundError: The file is not there.
    """
    import onnxruntime

    path = ASSETS / f"{name}.onnx"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. It belongs to the repository; `git checkout assets/matting` or "
            "scripts/convert_mediapipe.py brings it back."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(
        os.environ.get("OMP_NUM_THREADS") or min(MAX_THREADS, os.cpu_count() or 1)
    )
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(name: str, image: np.ndarray) -> list[np.ndarray]:
    """Run a network on one float32 image [s, s, 3]."""
    return session(name).run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


@dataclass(frozen=True)
class Circle:
    """Where a body is: a circle around the hips, and the direction from the hips to the head.

    Attributes:
        centre: [2] pixel (x, y).
        radius: Pixels; without margin.
        tilt: Radians by which the body leans from upright, clockwise in the image.
        score: Confidence in [0, 1].
        box: Pixels (left, top, right, bottom) of the head and shoulders, for telling detections apart.
    """

    centre: np.ndarray
    radius: float
    tilt: float
    score: float
    box: np.ndarray


@cache
def anchors() -> np.ndarray:
    """Cell centres [2254, 2] of the detector's outputs, as fractions of its input."""
    cells = []
    for side, repeats in DETECTION_GRIDS:
        rows, columns = np.mgrid[:side, :side]
        centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) / side
        cells.append(np.repeat(centres, repeats, axis=0))
    return np.concatenate(cells)


def detect(rgb: np.ndarray, threshold: float) -> list[Circle]:
    """Find bodies, best first; one body gives several overlapping detections.

    Decoding follows BlazePose (Bazarevsky et al. 2020, section 3): offsets from the anchors in input pixels,
    then four key points, of which the first is the middle of the hips and the second lies on the circle.

    Args:
        rgb: [h, w, 3] uint8.
        threshold: Least score in [0, 1].
    """
    height, width = rgb.shape[:2]
    side = max(height, width)
    scale = DETECTION_SIDE / side
    small = cv2.resize(
        rgb, (max(round(width * scale), 1), max(round(height * scale), 1)), interpolation=cv2.INTER_AREA
    )
    top, left = (DETECTION_SIDE - small.shape[0]) // 2, (DETECTION_SIDE - small.shape[1]) // 2
    square = np.zeros((DETECTION_SIDE, DETECTION_SIDE, 3), np.float32)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    raw, logits = run("pose_detection", square / 127.5 - 1)
    scores = sigmoid(logits[0, :, 0])
    order = np.argsort(-scores)[: np.count_nonzero(scores >= threshold)]
    origin = np.array([left, top], np.float32)
    found = []
    for index in order:
        values, anchor = raw[0, index], anchors()[index] * DETECTION_SIDE
        centre, half = values[:2] + anchor, values[2:4] / 2
        box = (np.concatenate([centre - half, centre + half]) - np.tile(origin, 2)) / scale
        hips, rim = ((values[start : start + 2] + anchor - origin) / scale for start in (4, 6))
        direction = rim - hips
        tilt = float(np.arctan2(direction[0], -direction[1]))
        found.append(Circle(hips, float(np.hypot(*direction)), tilt, float(scores[index]), box))
    return found


def body_transform(circle: Circle, side: int, margin: float = POSE_MARGIN) -> np.ndarray:
    """Affine [2, 3] from photo pixels to a `side` x `side` crop in which the body stands upright."""
    scale = side / (2 * circle.radius * margin)
    cosine, sine = scale * np.cos(circle.tilt), scale * np.sin(circle.tilt)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.column_stack([linear, side / 2 - linear @ circle.centre])


def crop(rgb: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """Sample a square crop of the photo without aliasing; float32 [side, side, 3] in [0, 1]."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:  # warpAffine takes four neighbours only: shrink by area first
        step = min(1.0, 2 * scale)
        size = max(round(rgb.shape[1] * step), 1), max(round(rgb.shape[0] * step), 1)
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        transform = transform.copy()
        transform[:, :2] /= step
    warped = cv2.warpAffine(
        rgb, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped.astype(np.float32) / 255


@dataclass(frozen=True)
class Pose:
    """One person's landmarks and mask.

    Attributes:
        landmarks: [33, 2] photo pixels (x, y), in MediaPipe's order (0 nose, 11 and 12 shoulders, 23 and 24
            hips, 27 and 28 ankles).
        visible: [33] probability that a landmark is seen, and inside of the crop.
        score: Probability that the crop shows a person.
        mask: [256, 256] probability of the person, in the crop.
        transform: [2, 3] from photo pixels to the crop.
    """

    landmarks: np.ndarray
    visible: np.ndarray
    score: float
    mask: np.ndarray
    transform: np.ndarray


def estimate_pose(
    rgb: np.ndarray, circle: Circle, margin: float = POSE_MARGIN, mirrored: bool = False
) -> Pose:
    """Estimate the pose of the body in a circle; a mirrored estimate serves its mask only.

    Args:
        rgb: [h, w, 3] uint8.
        circle: Where the body is.
        margin: Room around the circle.
        mirrored: Whether the network sees the crop flipped left to right.
    """
    transform = body_transform(circle, POSE_SIDE, margin)
    image = crop(rgb, transform, POSE_SIDE)
    landmarks, score, mask = run("pose_landmark", image[:, ::-1] if mirrored else image)
    points = landmarks.reshape(-1, 5)[:NUM_LANDMARKS]
    back = cv2.invertAffineTransform(transform)
    positions = points[:, :2] @ back[:, :2].T + back[:, 2]
    visible = sigmoid(points[:, 3]) * sigmoid(points[:, 4])
    probability = sigmoid(mask[0, 0])
    return Pose(
        positions,
        visible,
        float(score.reshape(-1)[0]),
        probability[:, ::-1] if mirrored else probability,
        transform,
    )


def selfie_mask(rgb: np.ndarray) -> np.ndarray:
    """Probability [h, w] float32 that a pixel belongs to any person, for an [h, w, 3] uint8 image."""
    small = cv2.resize(rgb, (SELFIE_SIDE, SELFIE_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    both = [run("selfie_segmentation", image)[0][0, 0] for image in (small, small[:, ::-1])]
    mean = (both[0] + both[1][:, ::-1]) / 2
    return cv2.resize(mean, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
