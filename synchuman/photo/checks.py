"""Whether a cut-out person can become a 3D model, said in sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synchuman.events import PhotoError
from synchuman.photo.people import Box, Person

OPAQUE = 128
MIN_HEIGHT = 64  # pixels: less than this shows nothing
GOOD_HEIGHT = 200
MIN_AREA = 0.002  # of the photo
HIDDEN = 0.3  # probability of being seen below which a landmark counts as missing
NOSE, SHOULDERS, HIPS, KNEES, ANKLES = 0, (11, 12), (23, 24), (25, 26), (27, 28)


@dataclass(frozen=True)
class PhotoReport:
    """What was seen in a photo.

    Attributes:
        people: Boxes of the people, the largest first; what `person` counts. Empty when nobody is
            recognised, which happens with drawings that came cut out.
        warnings: Sentences for the user.
        confirm: Whether the result will likely be poor, so that the user should be asked before going on.
    """

    people: tuple[Box, ...]
    warnings: tuple[str, ...] = ()
    confirm: bool = False


def check(cutout: np.ndarray, people: list[Person], person: int | None = None) -> PhotoReport:
    """Check a cut-out.

    Args:
        cutout: [h, w, 4] uint8.
        people: Everybody found in the photo, the largest first.
        person: Whom the user picked; None when nobody was asked.

    Raises:
        PhotoError: There is (nearly) nothing in the cut-out, or it is far too small.
    """
    solid = cutout[..., 3] >= OPAQUE
    if solid.mean() < MIN_AREA:
        raise PhotoError(
            "The cut-out is nearly empty. Please use a photo in which the person fills most of the picture."
        )
    rows = np.flatnonzero(solid.any(axis=1))
    columns = np.flatnonzero(solid.any(axis=0))
    tall = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    if tall < MIN_HEIGHT:
        raise PhotoError(
            f"The person is only {tall} pixels tall. "
            "Please use a larger photo, at best with 500 pixels or more."
        )
    grave: list[str] = []
    minor: list[str] = []
    if not people:
        minor.append("No person was recognised in this cut-out; the result may look odd.")
    elif person is None and len(people) > 1:
        minor.append(
            f"There are {len(people)} people in this photo; the largest was taken. "
            "Pick another one if you like."
        )
    if tall < GOOD_HEIGHT:
        minor.append(f"The person is only {tall} pixels tall; a larger photo gives more detail.")
    if people:
        add_missing_parts(cutout.shape[:2], rows, columns, people[person or 0], grave, minor)
    return PhotoReport(tuple(p.box for p in people), (*grave, *minor), bool(grave))


def add_missing_parts(
    shape: tuple[int, ...],
    rows: np.ndarray,
    columns: np.ndarray,
    person: Person,
    grave: list[str],
    minor: list[str],
) -> None:
    """Add sentences about parts of the body that are outside of the photo."""
    height, width = shape
    reach = max(2, round(0.01 * max(shape)))
    cut_top, cut_bottom = rows[0] < reach, rows[-1] >= height - reach
    cut_side = columns[0] < reach or columns[-1] >= width - reach

    def missing(landmarks: tuple[int, ...]) -> bool:
        x, y = person.pose.landmarks[list(landmarks)].T
        outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        return bool((outside | (person.pose.visible[list(landmarks)] < HIDDEN)).all())

    if cut_top and person.pose.landmarks[NOSE, 1] < 0.04 * height:
        grave.append("The head is cut off. Please use a photo that shows the whole person.")
    if missing(HIPS) and (cut_bottom or cut_side):
        grave.append(
            "Only the upper body is in the photo, so most of the person would have to be invented. "
            "Please use one that shows the whole person."
        )
    elif missing(KNEES) and cut_bottom:
        grave.append(
            "The legs are not in the photo and will be missing. A photo down to the feet works best."
        )
    elif missing(ANKLES) and cut_bottom:
        minor.append(
            "The feet are not in the photo and will be missing. A photo down to the feet works best."
        )
    elif cut_bottom or cut_side or cut_top:
        minor.append("The person touches the border of the photo; what lies outside will be missing.")
