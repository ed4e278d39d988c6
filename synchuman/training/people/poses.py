"""Poses: families of everyday and hard poses as limb directions, turned into joint rotations within limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from synchuman.training.people.body import Body

Direction = tuple[float, float, float]
"""A direction as (outward, forward, up) shares: outward is away from the body's mid plane."""

EASY_POSES = ("stand", "walk", "a_pose", "hips", "pockets", "clasped", "one_hip")
HARD_POSES = (
    "run",
    "sit",
    "squat",
    "kneel",
    "kick",
    "lunge",
    "crossed",
    "raised",
    "reach",
    "knee_up",
    "leg_back",
    "wave",
)
HARD_SHARE = 0.35
MAX_ELBOW = math.radians(145)
MAX_KNEE = math.radians(140)


@dataclass
class Pose:
    """A pose as directions of limbs; angles in radians.

    Attributes:
        family: Name of the family it was drawn from.
        arms: (upper arm, forearm) of the left and the right arm, in the chest's frame.
        legs: (thigh, shin) of the left and the right leg, in the world's frame before `yaw`.
        feet: Extra downward pitch of the toes, left and right.
        spine, head: (forward, to the left, turn to the left) angles.
        curl: Finger bend; `pronation` turns the palms down.
        yaw: Turn of the whole person about the vertical.
        lean: Forward pitch of the pelvis.
    """

    family: str
    arms: list[tuple[Direction, Direction]]
    legs: list[tuple[Direction, Direction]]
    feet: list[float] = field(default_factory=lambda: [0.0, 0.0])
    spine: Direction = (0.0, 0.0, 0.0)
    head: Direction = (0.0, 0.0, 0.0)
    curl: float = 0.3
    pronation: float = 0.0
    yaw: float = 0.0
    lean: float = 0.0


def jitter(rng: np.random.Generator, direction: Direction, sigma: float) -> Direction:
    """A direction with Gaussian noise on its parts."""
    noisy = np.asarray(direction) / np.linalg.norm(direction) + rng.normal(0, sigma, 3)
    return (float(noisy[0]), float(noisy[1]), float(noisy[2]))


def arms_of(rng: np.random.Generator, name: str) -> list[tuple[Direction, Direction]]:
    """Directions of both arms for a named attitude."""
    u = rng.uniform
    options: dict[str, tuple[Direction, Direction]] = {
        "down": ((u(0.1, 0.3), u(-0.15, 0.12), -1), (u(-0.05, 0.2), u(0.05, 0.35), -1)),
        "a_pose": ((u(0.35, 1.0), u(-0.1, 0.1), -1), (u(0.3, 0.9), u(0.0, 0.3), -1)),
        "hips": ((0.85, u(-0.45, -0.2), -0.85), (-0.62, u(0.2, 0.45), -0.62)),
        "pockets": ((0.4, -0.3, -1), (-0.12, u(0.2, 0.4), -1)),
        "clasped": ((0.3, 0.05, -1), (-0.55, u(0.5, 0.9), u(-0.7, 0.0))),
        "crossed": ((0.14, 0.42, -1), (-1, u(0.28, 0.4), 0.3)),
        "raised": ((u(0.3, 1.0), u(-0.1, 0.3), u(0.5, 1)), (u(-0.3, 0.3), u(0, 0.3), 1)),
        "t_pose": ((1, u(-0.15, 0.3), u(-0.3, 0.2)), (1, u(0, 0.6), u(-0.4, 0.5))),
        "reach": ((u(0.1, 0.4), 1, u(-0.6, 0.1)), (u(-0.2, 0.2), 1, u(-0.2, 0.4))),
        "phone": ((0.2, 0.15, -1), (-0.15, 0.7, u(0.1, 0.8))),
        "wave": ((0.8, 0.2, u(-0.5, 0.1)), (u(0, 0.4), 0.2, 1)),
        "on_knees": ((u(0.2, 0.5), u(0.3, 0.55), -1), (u(-0.25, 0.15), u(0.4, 0.8), -0.8)),
        "pumping": ((0.15, u(-0.3, 0.1), -1), (-0.15, 1, u(0, 0.5))),
    }
    sigma = 0.02 if name in ("crossed", "hips") else 0.05
    pair = []
    for side in range(2):
        upper, fore = options[name]
        if name == "crossed":  # one forearm lies over the other
            fore = (fore[0], fore[1] + 0.12 * side, fore[2] - 0.16 * side)
        pair.append((jitter(rng, upper, sigma), jitter(rng, fore, sigma)))
    return pair


def legs_of(rng: np.random.Generator, name: str) -> tuple[list[tuple[Direction, Direction]], list[float]]:
    """Directions of both legs and extra toe pitch for a named attitude; the leading leg is drawn at random."""
    u = rng.uniform
    width = u(0.02, 0.16)
    straight: tuple[Direction, Direction] = ((width, u(0, 0.06), -1), (width * 0.6, u(-0.12, -0.01), -1))
    stride = u(0.15, 0.5)
    lead: tuple[Direction, Direction] = straight
    other: tuple[Direction, Direction] = straight
    toes = [0.0, 0.0]
    if name == "stand" and rng.random() < 0.4:  # weight on one leg
        lead = ((width + u(0, 0.2), u(0.05, 0.25), -1), (width, u(-0.35, -0.05), -1))
    elif name == "walk":
        lead = ((0.03, stride, -1), (0.0, stride - u(0, 0.25), -1))
        other = ((0.03, -stride * 0.8, -1), (0.0, -stride - u(0.1, 0.6), -1))
        toes = [-0.2, 0.5]
    elif name == "run":
        lead = ((0.05, u(0.7, 1.2), -0.8), (0.0, u(-0.6, 0.2), -1))
        other = ((0.05, -u(0.2, 0.6), -1), (0.0, -1, u(-0.6, 0.2)))
        toes = [0.0, 0.7]
    elif name == "sit":
        spread = u(0.05, 0.5)
        lead = ((spread, 1, u(-0.3, 0.05)), (u(-0.1, 0.15), u(-0.35, 0.35), -1))
        other = ((spread, 1, u(-0.3, 0.05)), (u(-0.1, 0.15), u(-0.35, 0.35), -1))
    elif name == "squat":
        spread, lift = u(0.3, 0.8), u(-0.15, 0.45)
        lead = ((spread, 0.9, lift), (u(-0.05, 0.2), u(-0.65, -0.3), -1))
        other = ((spread, 0.9, lift), (u(-0.05, 0.2), u(-0.65, -0.3), -1))
        toes = [u(0, 0.4)] * 2
    elif name == "kneel":
        lead = ((u(0.05, 0.3), 1, u(-0.3, 0.1)), (0.0, u(-0.3, 0.1), -1))
        other = ((0.08, u(-0.15, 0.1), -1), (0.0, -1, u(-0.25, 0.0)))
        if rng.random() < 0.3:
            lead = other
        toes = [0.0, 0.9]
    elif name == "kick":
        lead = ((u(0, 0.5), 1, u(-0.4, 0.4)), (u(0, 0.4), 1, u(-0.6, 0.3)))
        toes = [0.3, 0.0]
    elif name == "lunge":
        lead = ((u(0.05, 0.25), 1, u(-0.7, -0.2)), (0.0, u(-0.25, 0.1), -1))
        other = ((0.08, -u(0.3, 0.8), -1), (0.0, -u(0.6, 1.2), -0.8))
        toes = [0.0, 0.8]
    elif name == "knee_up":
        lead = ((u(0.0, 0.7), 1, u(-0.5, 0.3)), (u(-0.3, 0.1), u(-0.5, 0.2), -1))
        toes = [u(0, 0.5), 0.0]
    elif name == "leg_back":
        lead = ((0.05, u(-0.3, 0.3), -1), (u(-0.1, 0.5), -1, u(-0.5, 0.2)))
        toes = [0.8, 0.0]
    pair = [(jitter(rng, thigh, 0.03), jitter(rng, shin, 0.03)) for thigh, shin in (lead, other)]
    return (pair, toes) if rng.random() < 0.5 else (pair[::-1], toes[::-1])


ATTITUDES: dict[str, tuple[str, tuple[str, ...]]] = {
    "stand": ("stand", ("down", "down", "a_pose")),
    "walk": ("walk", ("down",)),
    "a_pose": ("stand", ("a_pose",)),
    "hips": ("stand", ("hips",)),
    "one_hip": ("stand", ("hips", "down")),
    "pockets": ("stand", ("pockets",)),
    "clasped": ("stand", ("clasped", "phone")),
    "run": ("run", ("pumping",)),
    "sit": ("sit", ("on_knees", "on_knees", "clasped", "crossed", "down")),
    "squat": ("squat", ("clasped", "on_knees", "reach")),
    "kneel": ("kneel", ("on_knees", "down", "clasped")),
    "kick": ("kick", ("t_pose", "pumping", "a_pose")),
    "lunge": ("lunge", ("hips", "t_pose", "raised", "down")),
    "crossed": ("stand", ("crossed",)),
    "raised": ("stand", ("raised",)),
    "reach": ("stand", ("reach", "t_pose")),
    "wave": ("stand", ("wave",)),
    "knee_up": ("knee_up", ("down", "on_knees", "a_pose")),
    "leg_back": ("leg_back", ("t_pose", "a_pose", "wave")),
}
PRONATED = ("crossed", "on_knees", "clasped", "reach", "t_pose", "pumping", "phone")
TWO_HANDED = ("crossed", "clasped")


def draw_pose(rng: np.random.Generator, family: str | None = None) -> Pose:
    """Draw a pose; about 35 % come from the hard families unless `family` is given."""
    if family is None:
        family = str(rng.choice(HARD_POSES if rng.random() < HARD_SHARE else EASY_POSES))
    legs_name, arm_names = ATTITUDES[family]
    legs, toes = legs_of(rng, legs_name)
    left = str(rng.choice(arm_names))
    right = left
    if left not in TWO_HANDED and rng.random() < (0.9 if family in ("one_hip", "wave") else 0.25):
        right = str(rng.choice([name for name in (*arm_names, "down") if name not in TWO_HANDED]))
    arms = [arms_of(rng, left)[0], arms_of(rng, right)[1]]
    if left in TWO_HANDED:
        arms = arms_of(rng, left)
    if family in ("walk", "run"):
        swing = 0.35 * (1 if legs[1][0][1] > legs[0][0][1] else -1)
        arms = [
            ((o, f + swing * sign, z), (o2, f2 + swing * sign, z2))
            for ((o, f, z), (o2, f2, z2)), sign in zip(arms, (1, -1))
        ]
    if rng.random() < 0.5:
        arms = arms[::-1]
        if family in ("walk", "run"):
            arms = arms[::-1]
    lean = {
        "squat": rng.uniform(0.2, 0.6),
        "run": 0.2,
        "lunge": rng.uniform(-0.05, 0.25),
        "sit": rng.uniform(-0.25, 0.2),
    }
    wide = rng.random() > 0.85
    return Pose(
        family=family,
        arms=arms,
        legs=legs,
        feet=toes,
        spine=(rng.normal(0.02, 0.08), rng.normal(0, 0.06), rng.normal(0, 0.1)),
        head=(rng.normal(0.0, 0.12), rng.normal(0, 0.08), rng.normal(0, 0.25)),
        curl=float(rng.uniform(0.2, 0.7) if rng.random() < 0.8 else rng.uniform(0.9, 1.4)),
        pronation=float(rng.uniform(0.2, 1.1) if left in PRONATED else rng.uniform(-0.2, 0.4)),
        yaw=float(rng.normal(0, 0.5) if wide else rng.normal(0, 0.13)),
        lean=float(lean.get(family, rng.normal(0, 0.03))),
    )


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
    """Rotations [J, 3, 3] of every bone relative to its parent, in rest axes, for a person with joints `heads`."""
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
    """Rough self-intersection test: forearms and hands against trunk and head, shins and feet against each other.

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
            if min(distance(point, a, b) for a, b in zip(trunk[:-1], trunk[1:])) < 0.22 * size:
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
