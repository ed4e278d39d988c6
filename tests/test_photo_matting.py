"""A drawn person is found, cut out, checked and prepared by what ships with the app, without a network."""

import io
import socket

import numpy as np
import pytest
from photo_figure import draw, figure, room
from PIL import Image

from synchuman.events import PhotoError
from synchuman.photo import matting, prepare, warm_up
from synchuman.photo.checks import check
from synchuman.photo.matting import MattingUnavailable, cut_out, has_cutout, load_session
from synchuman.photo.people import find_people
from synchuman.photo.refine import foreground_colours, guided_filter, soft_alpha


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def one():
    return figure()


@pytest.fixture(scope="module")
def two():
    photo = room(800, 1000)
    masks = [draw(photo, 300, 80, 640), draw(photo, 720, 160, 520)]
    return photo, masks


@pytest.fixture(scope="module")
def cutout(one):
    return cut_out(one[0])


def test_session_is_one_of_rembgs():
    from rembg import new_session, remove

    load_session("offline")
    session = new_session(matting.OFFLINE_SESSION)
    photo, mask = figure(400, 300)
    alpha = np.asarray(remove(Image.fromarray(photo), session=session))[..., 3]
    assert iou(alpha > 127, mask) > 0.9
    empty = remove(Image.fromarray(room(400, 300)), session=session, only_mask=True)
    assert not np.asarray(empty).any()


def test_cut_out(one, cutout):
    photo, mask = one
    assert cutout.shape == (*photo.shape[:2], 4) and cutout.dtype == np.uint8
    assert iou(cutout[..., 3] > 127, mask) > 0.95
    assert (cutout[..., 3] == 255).mean() > 0.9 * mask.mean()  # solid inside
    inside = cutout[..., 3] == 255
    assert (cutout[inside][:, :3] == photo[inside]).all()  # and of the photo's own colours


def test_same_photo_same_cut_out(one, cutout):
    assert (cut_out(one[0]) == cutout).all()


def test_clean_border(one, cutout):
    """At the soft border of the red shirt the colours are the shirt's, not the wall's."""
    band = cutout[280:380, :, :]
    soft = (band[..., 3] > 25) & (band[..., 3] < 230)
    columns = np.flatnonzero(soft.any(axis=0))
    shirt = (columns > 220) & (columns < 380)
    colours = band[:, columns[shirt]][soft[:, columns[shirt]]][:, :3].astype(int)
    assert len(colours) > 20
    photo = one[0][280:380][:, columns[shirt]][soft[:, columns[shirt]]].astype(int)
    target = np.array([170, 40, 50])
    assert np.abs(colours - target).mean() < 0.6 * np.abs(photo - target).mean()


def test_people_are_told_apart(two):
    photo, masks = two
    people = find_people(photo)
    assert len(people) == 2 and people[0].box.left < people[1].box.left  # the larger one first
    for index, mask in enumerate(masks):
        alpha = cut_out(photo, person=index, people=people)[..., 3] > 127
        assert iou(alpha, mask) > 0.9
        assert (alpha & masks[1 - index]).sum() < 0.02 * masks[1 - index].sum()
    with pytest.raises(PhotoError, match="no person number 3"):
        cut_out(photo, person=2, people=people)


def test_person_in_a_large_photo():
    photo = room(1600, 2400)
    mask = draw(photo, 1800, 900, 330)
    people = find_people(photo)
    assert len(people) == 1
    assert iou(cut_out(photo, people=people)[..., 3] > 127, mask) > 0.85


@pytest.mark.parametrize(
    "photo",
    [
        room(600, 500),
        np.zeros((300, 300, 3), np.uint8),
        np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8),
    ],
    ids=["room", "black", "noise"],
)
def test_nobody(photo):
    with pytest.raises(PhotoError, match="Nobody was found"):
        cut_out(photo)


def test_own_alpha_is_kept(one):
    photo, mask = one
    rgba = np.dstack([photo, mask.astype(np.uint8) * 255])
    assert has_cutout(rgba)
    assert (cut_out(rgba) == rgba).all()
    rounded = np.dstack([photo, np.full(mask.shape, 255, np.uint8)])
    rounded[:10, :10, 3] = 0
    assert not has_cutout(rounded)
    assert iou(cut_out(rounded)[..., 3] > 127, mask) > 0.95


def test_models_by_name(one, monkeypatch, tmp_path):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="offline, u2net_human_seg"):
        cut_out(one[0], "no-such-model")
    for name in matting.DOWNLOADED:
        with pytest.raises(MattingUnavailable, match="choose 'offline'"):
            cut_out(one[0], name)


def test_a_downloaded_model_is_used_and_stays_with_the_picked_person(two, monkeypatch):
    photo, masks = two

    class Everybody:
        def predict(self, image):
            left, top = offset
            both = (masks[0] | masks[1])[top : top + image.height, left : left + image.width]
            return [Image.fromarray(both.astype(np.uint8) * 255)]

    from synchuman.photo.segment import surroundings

    people = find_people(photo)
    offset = surroundings(people[1], photo.shape[:2])[:2]
    monkeypatch.setattr(matting, "load_session", lambda model: Everybody())
    alpha = cut_out(photo, "u2net_human_seg", 1, people)[..., 3] > 127
    assert iou(alpha, masks[1]) > 0.9


# ---- checks


@pytest.mark.parametrize(
    ("place", "sentence", "confirm"),
    [
        ({}, None, False),
        ({"tall": 880}, "feet", False),
        ({"tall": 1300}, "legs", True),
        ({"top": -100, "tall": 800}, "head is cut off", True),
    ],
    ids=["whole", "feet", "legs", "head"],
)
def test_body_cut_off(place, sentence, confirm):
    report = prepare(png(figure(**place)[0])).report
    assert report.confirm is confirm
    if sentence is None:
        assert report.warnings == ()
    else:
        assert sentence in report.warnings[0]


def test_several_people_are_said(two):
    prepared = prepare(png(two[0]))
    assert len(prepared.report.people) == 2 and "2 people" in prepared.report.warnings[0]
    assert prepare(png(two[0]), person=1).report.warnings == ()


def test_small_and_empty():
    photo, _ = figure(180, 140)
    report = prepare(png(photo)).report
    assert any("pixels tall" in warning for warning in report.warnings)
    speck = np.zeros((500, 500, 4), np.uint8)
    speck[:30, :30] = 255
    with pytest.raises(PhotoError, match="nearly empty"):
        check(speck[:, :400] * 0, [])
    with pytest.raises(PhotoError, match="30 pixels tall"):
        check(speck, [])


def test_cut_out_drawing_is_only_warned_about():
    pixels = np.zeros((400, 300, 4), np.uint8)
    pixels[50:350, 100:200] = (200, 30, 30, 255)
    prepared = prepare(png(pixels))
    assert (prepared.cutout == pixels).all() and prepared.report.people == ()
    assert "No person was recognised" in prepared.report.warnings[0]


def test_large_photos_are_shrunk():
    pixels = np.zeros((3000, 2400, 4), np.uint8)
    pixels[200:2800, 800:1600] = 255
    assert prepare(png(pixels)).cutout.shape == (2048, 1638, 4)


def test_warm_up():
    warm_up()


# ---- the border


def test_soft_alpha_follows_the_photo():
    photo = np.zeros((300, 300, 3), np.uint8)
    photo[:, 150:] = 220
    rough = np.zeros((300, 300), np.float32)
    rough[:, 152:] = 1  # two pixels off
    alpha = soft_alpha(photo, rough)
    assert alpha[150, 156] > 0.95 and alpha[150, 145] < 0.05
    assert alpha[:, :130].max() == 0 and alpha[:, 170:].min() == 1
    assert not soft_alpha(photo, np.zeros((300, 300), np.float32)).any()


def test_guided_filter_keeps_constants():
    guide = np.random.default_rng(0).random((40, 50, 3), np.float32)
    np.testing.assert_allclose(
        guided_filter(guide, np.full((40, 50), 0.25, np.float32), 3, 1e-3), 0.25, atol=1e-4
    )


def test_foreground_colours_undo_mixing():
    alpha = np.clip(np.linspace(-19, 20, 200, dtype=np.float32), 0, 1)[None].repeat(100, axis=0)
    front, back = np.array([200.0, 40, 40]), np.array([30.0, 200, 60])
    photo = (alpha[..., None] * front + (1 - alpha[..., None]) * back).astype(np.uint8)
    colours = foreground_colours(photo, alpha)
    half = np.abs(alpha - 0.5) < 0.3
    assert np.abs(colours[half] - front).mean() < 0.35 * np.abs(photo[half] - front).mean()
    assert (colours[alpha == 1] == photo[alpha == 1]).all()
