"""From photo bytes to a checked, upright, cut-out person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from synchuman.photo.checks import PhotoReport

MAX_SIDE = 2048  # pixels: more shows nowhere in the result


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo that is ready for the networks.

    Attributes:
        image: [h, w, 3] or [h, w, 4] uint8, upright, at most `MAX_SIDE` pixels a side.
        cutout: [h, w, 4] uint8 RGBA, straight alpha, same size.
        report: Who is in it, and what the user should know.
    """

    image: np.ndarray
    cutout: np.ndarray
    report: PhotoReport


def prepare(data: bytes, matting: str = "offline", person: int | None = None) -> PreparedPhoto:
    """Decode a photo, cut the person out and check it.

    Args:
        data: The file's bytes.
        matting: One of `matting.MODELS`.
        person: Whom to take when there are several, an index into `report.people`; None takes the largest.

    Raises:
        PhotoError: The photo cannot be used; the message says what to do.
    """
    from synchuman.photo.checks import check
    from synchuman.photo.decode import decode, shrink
    from synchuman.photo.framing import on_white, to_uint8
    from synchuman.photo.matting import cut_out, has_cutout, opaque
    from synchuman.photo.people import find_people

    image = shrink(decode(data), MAX_SIDE)
    already = has_cutout(image)
    people = find_people(to_uint8(on_white(image)) if already else opaque(image))
    cutout = cut_out(image, matting, person, people)
    # A photo that came cut out holds one person: its owner chose.
    return PreparedPhoto(
        image, cutout, check(cutout, people[:1] if already else people, None if already else person)
    )


def warm_up(matting: str = "offline") -> None:
    """Load what the first photo would wait for; after a fresh installation that takes half a minute."""
    from synchuman.photo.matting import OFFLINE, load_session
    from synchuman.photo.networks import session

    load_session(matting)
    for name in ("pose_detection", "pose_landmark", "selfie_segmentation") if matting == OFFLINE else ():
        session(name)
