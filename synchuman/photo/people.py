"""Finds the people in a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from synchuman.photo.networks import Circle, Pose, detect, estimate_pose

MIN_DETECTION = 0.5
MIN_TOGETHER = 0.42  # product of both scores: chairs and rockets stay below, half hidden people above
SAME_OVERLAP = 0.3  # of the head boxes: two detections of one person
SAME_DISTANCE = 0.15  # of the body's radius: two poses of one person
MAX_PEOPLE = 8
TILES = 3  # a second look, tile by tile, when nobody is large enough to be seen at once


class Box(NamedTuple):
    """Pixels of the photo, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Person:
    """A person in a photo: box of the body as far as it is in the photo, where the body lies, its pose."""

    box: Box
    circle: Circle
    pose: Pose


def find_people(rgb: np.ndarray) -> list[Person]:
    """Find the people in [h, w, 3] uint8, the largest first; empty when nobody is recognised."""
    circles = detect(rgb, MIN_DETECTION)
    people = distinct(rgb, circles)
    if not people:
        people = distinct(rgb, detect_in_tiles(rgb))
    return sorted(people, key=lambda person: -person.circle.radius)


def detect_in_tiles(rgb: np.ndarray) -> list[Circle]:
    """Look at overlapping tiles of half the photo's sides; positions are in the whole photo, best first."""
    height, width = rgb.shape[:2]
    rows, columns = height // 2, width // 2
    found = []
    for top in np.linspace(0, height - rows, TILES).astype(int):
        for left in np.linspace(0, width - columns, TILES).astype(int):
            shift = np.array([left, top])
            for c in detect(rgb[top : top + rows, left : left + columns], MIN_DETECTION):
                found.append(Circle(c.centre + shift, c.radius, c.tilt, c.score, c.box + np.tile(shift, 2)))
    return sorted(found, key=lambda circle: -circle.score)


def distinct(rgb: np.ndarray, circles: list[Circle]) -> list[Person]:
    """One person per body: overlapping detections are dropped, and those whose pose finds nobody."""
    kept: list[Circle] = []
    for circle in circles:
        if all(overlap(circle.box, other.box) < SAME_OVERLAP for other in kept):
            kept.append(circle)
    people: list[Person] = []
    for circle in kept[:MAX_PEOPLE]:
        pose = estimate_pose(rgb, circle)
        if pose.score * circle.score < MIN_TOGETHER:
            continue
        distances = [np.linalg.norm(pose.landmarks - p.pose.landmarks, axis=1).mean() for p in people]
        if all(d > SAME_DISTANCE * circle.radius for d in distances):
            people.append(Person(body_box(pose, circle, rgb.shape[:2]), circle, pose))
    return people


def body_box(pose: Pose, circle: Circle, shape: tuple[int, ...]) -> Box:
    """Box of the landmarks with room for the hair, hands and feet, inside of the photo."""
    room = 0.12 * circle.radius
    low = np.floor(np.maximum(pose.landmarks.min(axis=0) - room, 0)).astype(int)
    high = np.ceil(np.minimum(pose.landmarks.max(axis=0) + room, shape[1::-1])).astype(int)
    high = np.maximum(high, low + 1)
    return Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if total > 0 else 0.0
