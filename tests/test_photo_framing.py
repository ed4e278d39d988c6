"""Framing equals the published model's, measured on its own outputs (tests/fixtures/photo_framing.safetensors)."""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from safetensors import safe_open

from synchuman.events import PhotoError
from synchuman.photo.framing import bounding_box, frame_multiview, frame_tokens, on_white, to_uint8

FIXTURE = Path(__file__).parent / "fixtures" / "photo_framing.safetensors"
CANVAS_STEP, TOKEN_STEP = 24, 8
SHRUNK = (
    2  # the one photo larger than the canvas: Pillow before 13 shrinks it with up to 3 levels of difference
)
SAME_RESAMPLER = int(PIL.__version__.split(".")[0]) >= 13


def synthetic_photo(W: int, H: int, cx: int, cy: int, rx: int, ry: int, k: int) -> np.ndarray:
    """An ellipse with a soft border and striped colours, by integer arithmetic alone."""
    y, x = np.mgrid[:H, :W].astype(np.int64)
    distance = ((x - cx) * 1000 // rx) ** 2 + ((y - cy) * 1000 // ry) ** 2
    alpha = np.clip((1_200_000 - distance) // 800, 0, 255)
    red = (2 * x + y + 31 * k) % 256
    green = (x + 3 * y + 17 * k) % 256
    blue = (x * x // 64 + y * y // 128 + 7 * k) % 256
    return np.stack([red, green, blue, alpha], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def golden():
    with safe_open(FIXTURE, "numpy") as file:
        photos = json.loads(file.metadata()["photos"])
        return photos, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("index", range(3))
def test_golden(golden, index):
    photos, tensors = golden
    photo = synthetic_photo(**photos[index])
    row, column = photos[index]["cy"], photos[index]["cx"]
    centre = photo[row - 4 : row + 4, column - 4 : column + 4]
    assert (centre == tensors[f"{index}.center"]).all()

    canvas, face = frame_multiview(photo)
    for image, key in ((canvas, "canvas"), (face, "face")):
        thinned = on_white(image)[::CANVAS_STEP, ::CANVAS_STEP]
        wrong = np.abs(thinned - tensors[f"{index}.{key}"]) * 255
        if SAME_RESAMPLER:
            assert wrong.max() < 1e-3, key
        assert (wrong > 1.01).mean() <= (0.02 if index == SHRUNK else 0.005) and wrong.max() < 3.2, key

    tokens = frame_tokens(photo)
    off = np.abs(tokens[::TOKEN_STEP, ::TOKEN_STEP].astype(int) - tensors[f"{index}.tokens"])
    assert (off > 0).mean() <= 0.005 and off.max() <= 1
    values = tokens.astype(np.int64)
    np.testing.assert_allclose([values.sum(), (values**2).sum()], tensors[f"{index}.tokens_sums"], rtol=1e-4)


@pytest.mark.parametrize("size", [192, 288, 384, 100])
def test_other_sizes_are_the_same_picture(size):
    photo = synthetic_photo(300, 420, 140, 215, 70, 180, 0)
    canvas, face = frame_multiview(photo, size)
    assert canvas.shape == face.shape == (size, size, 4)
    rows = np.flatnonzero((canvas[..., 3] > 0).any(axis=1))
    assert rows[0] == 0 and rows[-1] >= size - 2  # the longer side touches both borders
    tokens = frame_tokens(photo, size)
    assert tokens.shape == (size, size, 3)
    assert not tokens[0].any() and tokens[size // 2, size // 2].any()


def test_face_is_the_middle_third_of_the_top_third():
    photo = np.zeros((90, 90, 4), np.uint8)
    photo[..., 3] = 255
    photo[:30, 30:60, 0] = 255
    _, face = frame_multiview(photo, 90)
    assert (face[5:-5, 5:-5, 0] > 250).all()


def test_tokens_ignore_faint_pixels_but_canvas_keeps_them():
    photo = synthetic_photo(900, 420, 740, 215, 70, 180, 0)
    stray = photo.copy()
    stray[0, 0] = (255, 0, 0, 1)
    assert (frame_tokens(photo) == frame_tokens(stray)).all()
    assert (frame_multiview(photo)[0] != frame_multiview(stray)[0]).any()


def test_empty_cutout_is_refused():
    for frame in (frame_multiview, frame_tokens):
        with pytest.raises(PhotoError, match="empty"):
            frame(np.zeros((64, 64, 4), np.uint8))


def test_single_pixel_and_odd_boxes_do_not_crash():
    photo = np.zeros((64, 48, 4), np.uint8)
    photo[10, 10] = 255
    assert frame_multiview(photo, 96)[0].shape == (96, 96, 4)
    assert frame_tokens(photo, 70).shape == (70, 70, 3)
    assert bounding_box(photo[..., 3], 0) == (10, 10, 10, 10)


def test_white_and_truncation():
    pixel = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    white = on_white(pixel)
    assert (white[0, 0] == 1).all()
    assert (to_uint8(np.array([0.0, 0.999, 1.0, 2.0, -1.0])) == [0, 254, 255, 255, 0]).all()
    np.testing.assert_allclose(white[0, 1] * 255, [10, 20, 30], atol=1e-4)
