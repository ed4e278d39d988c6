"""Poses: everyday and hard families as directions of limbs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
    """Directions of both legs and extra toe pitch for a named attitude; either leg may lead."""
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
