"""Kinematics: limb directions turned into joint rotations within limits, and a rough collision test."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.body import Body
from synchuman.training.people.poses import Direction, Pose

MAX_ELBOW = math.radians(145)
MAX_KNEE = math.radians(140)


def rotation(axis: int, angle: float) -> np.ndarray:
    """[3, 3] rotation about a coordinate axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.eye(3)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix[i, i] = matrix[j, j] = cosine
    matrix[i, j], matrix[j, i] = -sine, sine
    return matrix


def axis_rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """[3, 3] rotation about any axis."""
    x, y, z = axis / np.linalg.norm(axis)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew


def align(source: np.ndarray, target: np.ndarray, limit: float = math.pi) -> np.ndarray:
    """The smallest rotation that takes direction `source` to `target`, at most `limit` radians of it."""
    source, target = source / np.linalg.norm(source), target / np.linalg.norm(target)
    axis = np.cross(source, target)
    sine = np.linalg.norm(axis)
    if sine < 1e-6:
        return np.eye(3)
    angle = min(math.atan2(float(sine), float(source @ target)), limit)
    return axis_rotation(axis, angle)


def to_vector(direction: Direction, sign: int) -> np.ndarray:
    """(outward, forward, up) to body axes, for the left (sign 1) or right (-1) side; unit length."""
    vector = np.array([direction[0] * sign, -direction[1], direction[2]])
    return vector / np.linalg.norm(vector)


def bend(first: np.ndarray, second: np.ndarray, limit: float) -> np.ndarray:
    """`second`, turned back toward `first` when the joint between them would bend more than `limit`."""
    return align(first, second, limit) @ first


def joint_rotations(pose: Pose, body: Body, heads: Tensor) -> Tensor:
    """Rotations [J, 3, 3] of every bone relative to its parent, in rest axes; `heads` are the rest joints."""
    joints = heads.detach().cpu().numpy().astype(np.float64)
    result = np.tile(np.eye(3), (len(body.bones), 1, 1))

    def put(bone: str, matrix: np.ndarray) -> None:
        result[body.index(bone)] = matrix @ result[body.index(bone)]

    def along(bone: str, child: str) -> np.ndarray:
        return joints[body.index(child)] - joints[body.index(bone)]

    root = rotation(2, pose.yaw) @ rotation(0, pose.lean)
    put("root", root)
    for bone in ("spine05", "spine04", "spine03", "spine02"):
        put(
            bone,
            rotation(0, pose.spine[0] / 4) @ rotation(1, pose.spine[1] / 4) @ rotation(2, pose.spine[2] / 4),
        )
    for bone in ("neck01", "neck03", "head"):
        pitch = pose.head[0] - 0.7 * pose.lean
        put(bone, rotation(0, pitch / 3) @ rotation(1, pose.head[1] / 3) @ rotation(2, pose.head[2] / 3))
    for (upper, fore), side, sign in zip(pose.arms, "LR", (1, -1)):
        upper_to, fore_to = to_vector(upper, sign), to_vector(fore, sign)
        raise_by = max(0.0, float(upper_to[2]) + 0.35) * 0.45
        shoulder = rotation(1, -sign * raise_by)
        put(f"shoulder01.{side}", shoulder)
        first = align(along(f"upperarm01.{side}", f"lowerarm01.{side}"), shoulder.T @ upper_to)
        put(f"upperarm01.{side}", first)
        fore_to = bend(upper_to, fore_to, MAX_ELBOW)
        put(
            f"lowerarm01.{side}",
            align(along(f"lowerarm01.{side}", f"wrist.{side}"), (shoulder @ first).T @ fore_to),
        )
        palm = axis_rotation(along(f"lowerarm01.{side}", f"wrist.{side}"), sign * pose.pronation)
        put(f"lowerarm02.{side}", palm)
        knuckles = along(f"finger2-1.{side}", f"finger5-1.{side}")
        middle = along(f"finger3-1.{side}", f"finger3-2.{side}")
        for finger in range(1, 6):
            if finger > 1:  # the rest pose splays the fingers
                own = along(f"finger{finger}-1.{side}", f"finger{finger}-2.{side}")
                put(f"finger{finger}-1.{side}", align(own, 0.3 * own + 0.7 * middle))
            for joint in range(1, 4):
                amount = pose.curl * (0.3 if finger == 1 else 0.6)
                put(f"finger{finger}-{joint}.{side}", axis_rotation(knuckles, sign * amount))
    unlean = rotation(0, pose.lean).T
    for (thigh, shin), toes, side, sign in zip(pose.legs, pose.feet, "LR", (1, -1)):
        thigh_to, shin_to = to_vector(thigh, sign), to_vector(shin, sign)
        first = align(along(f"upperleg01.{side}", f"lowerleg01.{side}"), unlean @ thigh_to)
        put(f"upperleg01.{side}", first)
        shin_to = bend(thigh_to, shin_to, MAX_KNEE)
        second = align(along(f"lowerleg01.{side}", f"foot.{side}"), (unlean.T @ first).T @ shin_to)
        put(f"lowerleg01.{side}", second)
        ahead = along(f"foot.{side}", f"toe2-1.{side}")
        flat = rotation(0, toes) @ rotation(2, sign * 0.12) @ ahead
        put(f"foot.{side}", align(ahead, (unlean.T @ first @ second).T @ flat, limit=0.7))
    return torch.from_numpy(result).to(heads)


def collides(joints: np.ndarray, body: Body, heads: np.ndarray) -> bool:
    """Rough self-intersection test: forearms and hands against trunk and head, shins against each other.

    Args:
        joints: [J, 3] posed joints.
        heads: [J, 3] rest joints, which give the person's size.
    """
    at = {name: joints[body.index(name)] for name in body.bones}
    size = np.linalg.norm(heads[body.index("neck01")] - heads[body.index("root")])
    trunk = [at["root"], at["spine03"], at["spine01"], at["neck01"]]

    def distance(point: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        share = np.clip((point - a) @ (b - a) / max((b - a) @ (b - a), 1e-9), 0, 1)
        return float(np.linalg.norm(point - a - share * (b - a)))

    for side in "LR":
        elbow, wrist, tip = at[f"lowerarm01.{side}"], at[f"wrist.{side}"], at[f"finger3-1.{side}"]
        for point in ((elbow + wrist) / 2, wrist, tip):
            if min(distance(point, a, b) for a, b in pairwise(trunk)) < 0.22 * size:
                return True
            if np.linalg.norm(point - at["head"] - np.array([0, 0, 0.12 * size])) < 0.22 * size:
                return True
        for point in (wrist, tip):
            if distance(point, at[f"upperleg01.{side}"], at[f"lowerleg01.{side}"]) < 0.12 * size:
                return True
    shins = [(at[f"lowerleg01.{side}"], at[f"foot.{side}"]) for side in "LR"]
    for share in np.linspace(0, 1, 5):
        left = shins[0][0] * (1 - share) + shins[0][1] * share
        if distance(left, *shins[1]) < 0.13 * size:
            return True
    return False
