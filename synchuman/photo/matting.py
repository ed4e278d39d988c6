"""Cuts the person out of the photo, through rembg: our offline model, or one of rembg's own by name."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from synchuman.events import PhotoError
from synchuman.photo.people import Person, find_people
from synchuman.photo.refine import foreground_colours, soft_alpha
from synchuman.photo.segment import person_mask, surroundings

LOGGER = logging.getLogger(__name__)

OFFLINE = "offline"
DOWNLOADED = ("u2net_human_seg", "isnet-general-use", "birefnet-portrait")
MODELS = (OFFLINE, *DOWNLOADED)
OFFLINE_SESSION = "mediapipe-person"  # the offline model's name within rembg

OPAQUE = 128
MIN_TRANSPARENT = 0.05  # of the pixels: less is a rounded corner, not a cut-out


class MattingUnavailable(PhotoError):
    """The chosen model cannot be had, usually because there is no network; the message names the way out."""


def has_cutout(image: np.ndarray) -> bool:
    """Whether a photo [h, w, 3 or 4] uint8 already comes cut out."""
    return image.shape[2] == 4 and float((image[..., 3] < OPAQUE).mean()) >= MIN_TRANSPARENT


def cut_out(
    image: np.ndarray, model: str = OFFLINE, person: int | None = None, people: list[Person] | None = None
) -> np.ndarray:
    """Cut the person out; a photo that is already cut out keeps its alpha.

    Args:
        image: [h, w, 3] or [h, w, 4] uint8, upright.
        model: One of `MODELS`.
        person: Whom to cut out, an index into `people`; None takes the largest.
        people: What `find_people` returned for this photo; None looks again.

    Returns:
        [h, w, 4] uint8 RGBA, straight alpha, colours free of the background.

    Raises:
        PhotoError: Nobody is in the photo, or there is no such person.
        MattingUnavailable: The model has to be downloaded and cannot be.
        ValueError: There is no such model.
    """
    if model not in MODELS:
        raise ValueError(f"No background removal named {model!r}; there are {', '.join(MODELS)}.")
    if has_cutout(image):
        return image
    rgb = opaque(image)
    if people is None:
        people = find_people(rgb)
    if not people:
        raise PhotoError(
            "Nobody was found in this photo. Please use one that shows a whole person, well lit and not too "
            "small, or upload a PNG whose background is already transparent."
        )
    index = 0 if person is None else person
    if not 0 <= index < len(people):
        raise PhotoError(f"There is no person number {index + 1} in this photo; it shows {len(people)}.")
    chosen, others = people[index], people[:index] + people[index + 1 :]
    mask = predict(model, rgb, chosen, others)
    if mask.max(initial=0) < 0.5:
        raise PhotoError(
            "The person could not be told from the background. Please use a photo with more contrast."
        )
    alpha = soft_alpha(rgb, mask)
    colours = foreground_colours(rgb, alpha)
    return np.dstack([colours, np.rint(alpha * 255).astype(np.uint8)])


def opaque(image: np.ndarray) -> np.ndarray:
    """Colours of a photo that is not cut out; a few transparent pixels (rounded corners) turn white."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.uint16)
    return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def predict(model: str, rgb: np.ndarray, person: Person, others: list[Person]) -> np.ndarray:
    """Mask [h, w] float32 in [0, 1] of one person by one of the models."""
    session = load_session(model)
    if model == OFFLINE:
        mask = session.predict(Image.fromarray(rgb), person=person, others=others)[0]
        return np.asarray(mask).astype(np.float32) / 255
    left, top, right, bottom = surroundings(person, rgb.shape[:2])
    predicted = session.predict(Image.fromarray(rgb[top:bottom, left:right]))[0]
    mask = np.zeros(rgb.shape[:2], np.float32)
    mask[top:bottom, left:right] = np.asarray(predicted.convert("L")).astype(np.float32) / 255
    if others:  # these models know people, not who is who
        ours = person_mask(rgb, person, others) > 0.5
        theirs = np.max([person_mask(rgb, other, [person]) for other in others], axis=0) > 0.5
        mask[theirs & ~ours] = 0
    return mask


@lru_cache(maxsize=2)
def load_session(model: str) -> Any:
    """Create the rembg session of a model, downloading the model when it is one of `DOWNLOADED`.

    Raises:
        MattingUnavailable: The download failed.
    """
    from rembg import new_session

    if model == OFFLINE:
        register_offline()
        return new_session(OFFLINE_SESSION)
    try:
        return new_session(model)
    except (
        Exception
    ) as error:  # pooch, requests, onnxruntime and the file system each have errors of their own
        LOGGER.warning("rembg model %s not available: %s", model, error)
        raise MattingUnavailable(
            f"Background removal {model!r} has to be downloaded once and that failed. "
            f"Please check the network connection, or choose {OFFLINE!r}, which needs none."
        ) from error


def register_offline() -> None:
    """Make our model known to rembg under `OFFLINE_SESSION`."""
    from rembg.session_factory import sessions_class
    from rembg.sessions.base import BaseSession

    if any(known.name() == OFFLINE_SESSION for known in sessions_class):
        return

    class MediaPipePerson(BaseSession):
        """MediaPipe's selfie and pose networks as a rembg session; its three networks load on first use."""

        def __init__(self, model_name: str, sess_opts: Any, *args: Any, **kwargs: Any) -> None:
            self.model_name = model_name

        def predict(self, img: Image.Image, *args: Any, **kwargs: Any) -> list[Image.Image]:
            """One mask: of `person` (without `others`) when given, else of the largest person found."""
            rgb = np.asarray(img.convert("RGB"))
            person, others = kwargs.get("person"), kwargs.get("others", [])
            if person is None:
                people = find_people(rgb)
                if not people:
                    return [Image.new("L", img.size)]
                person, others = people[0], people[1:]
            return [Image.fromarray(np.rint(person_mask(rgb, person, others) * 255).astype(np.uint8))]

        @classmethod
        def download_models(cls, *args: Any, **kwargs: Any) -> str:
            """Nothing to download: the folder of the files that ship with the app."""
            from synchuman.photo.networks import ASSETS

            return str(ASSETS)

        @classmethod
        def name(cls, *args: Any, **kwargs: Any) -> str:
            """Name within rembg."""
            return OFFLINE_SESSION

    sessions_class.append(MediaPipePerson)
