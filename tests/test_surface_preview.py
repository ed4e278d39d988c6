"""Pictures of a finished model: its styles, the face, the sheet, and films in which it turns."""

from __future__ import annotations

import io

import numpy as np
import pytest
import surface_person
from PIL import Image

from synchuman.surface.formats.turntable import frames, to_mp4, to_webp
from synchuman.surface.mesh import TexturedMesh
from synchuman.surface.preview import STYLES, backdrop, contact_sheet, over, render, render_face


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    return surface_person.built()


def test_film_and_moving_picture_turn_once(mesh):
    import av

    data = to_mp4(mesh, count=6, size=128)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    drawn = list(frames(mesh, 6, 128))
    assert len(shown) == 6 and shown[0].shape == (128, 128, 3)
    for film_frame, picture in zip(shown, drawn):
        assert np.abs(film_frame.astype(int) - picture).mean() < 6
    assert np.abs(drawn[0].astype(int) - drawn[3]).mean() > 1
    with pytest.raises(ValueError, match="even"):
        to_mp4(mesh, count=2, size=127)
    moving = Image.open(io.BytesIO(to_webp(mesh, count=6, size=96)))
    assert moving.format == "WEBP" and moving.n_frames == 6 and moving.info["loop"] == 0


def test_pictures_in_every_style(mesh):
    pictures = {style: render(mesh, 20, 160, style) for style in STYLES}
    for style, picture in pictures.items():
        assert (picture[..., 3] == pictures["texture"][..., 3]).all(), style
        edge = picture[..., 3]
        assert ((edge > 20) & (edge < 235)).sum() > 50  # antialiased
    body = pictures["texture"][..., 3] == 255
    clay, shaded, plain = (pictures[s][body][:, :3].astype(float) for s in ("clay", "shaded", "texture"))
    assert np.ptp(clay, axis=1).max() < 25 and clay[:, 0].std() > 8
    # Light keeps the hues and does not darken the whole.
    assert 0.7 < shaded.sum() / plain.sum() < 1.05
    red = (plain[:, 0] > 180) & (plain[:, 1] < 80)
    assert red.sum() > 5 and (shaded[red, 0] > 2 * shaded[red, 1]).all()
    assert np.abs(pictures["wire"][body][:, :3].astype(float) - clay).mean() > 10
    with pytest.raises(ValueError, match="'clay'"):
        render(mesh, style="oil")  # type: ignore[arg-type]


def test_the_face_fills_its_picture_and_the_sheet_has_all_sides(mesh):
    whole, face = render(mesh, 0, 384), render_face(mesh, 384)
    crop = np.asarray(Image.fromarray(whole).resize((384, 384), box=(128, 9, 256, 137)))
    assert (face[..., 3] > 0).mean() > 2.5 * (whole[..., 3] > 0).mean()
    assert np.abs(face.astype(float) - crop)[..., 3].mean() < 25
    sheet = contact_sheet(mesh, size=64)
    assert sheet.shape == (128, 320, 3)
    assert (sheet[:2, :2] > 235).all()
    assert (over(np.zeros((8, 8, 4), np.uint8), backdrop(8)) == backdrop(8).round()).all()
