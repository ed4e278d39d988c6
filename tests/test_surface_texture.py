"""The atlas, the texture and the previews: every colour in its place, none of the background."""

from __future__ import annotations

import numpy as np
import pytest
import surface_person
import torch
from conftest import quiet
from surface_person import PATCH, SHOE, SKIN, TROUSERS

from synchuman.events import Cancelled
from synchuman.surface.atlas import unwrap
from synchuman.surface.look import project_to_pixels
from synchuman.surface.mesh import TexturedMesh, is_watertight
from synchuman.surface.preview import render, sample_texture
from synchuman.surface.raster import rasterize
from synchuman.surface.sources import photo_source, view_sources
from synchuman.views import NUM_VIEWS, project

FACES, SIZE = 12_000, 768


def build(person: surface_person.Person, checkpoint=quiet, **changes) -> TexturedMesh:
    inputs = {
        "logits": person.logits,
        "colors": person.colors,
        "normals": person.normals,
        "photo": person.photo,
    }
    given = {**inputs, **changes}
    images = given["colors"], given["normals"], given["photo"]
    return surface_person.textured(given["logits"], images, FACES, SIZE, checkpoint)


@pytest.fixture(scope="module")
def mesh() -> TexturedMesh:
    return surface_person.built()


def patch(picture: np.ndarray, x: float, z: float, extent: float = 1.05) -> np.ndarray:
    """Mean colour of 5 x 5 pixels of a preview around a point of its plane."""
    side = picture.shape[0]
    column, row = int((x / extent + 0.5) * side), int((0.5 - z / extent) * side)
    window = picture[row - 2 : row + 3, column - 2 : column + 3]
    assert (window[..., 3] == 255).all()
    return window[..., :3].reshape(-1, 3).mean(0)


@pytest.mark.parametrize(
    ("yaw", "x", "z", "color"),
    [
        (0, 0.0, 0.19, PATCH),
        (0, 0.0, 0.445, SKIN),
        (0, 0.08, -0.2, TROUSERS),
        (180, 0.0, 0.17, (0.2, 0.6, 0.25)),
        (90, 0.0, -0.2, TROUSERS),
        (270, 0.0, -0.2, TROUSERS),
        (90, 0.02, -0.47, SHOE),
    ],
)
def test_colours_come_back_where_they_were(mesh, yaw, x, z, color):
    seen = patch(render(mesh, yaw, 600), x, z)
    assert np.abs(seen - np.array(color) * 255).max() < 5


def test_the_front_is_the_photo(mesh):
    """Detail finer than the views' pixels comes through, and nothing is shifted."""
    person = surface_person.make()
    picture = render(mesh, 0, 800, extent=1.0).astype(np.float32)
    truth, _, alpha = surface_person.draw(person.vertices, person.faces, 0, 800)
    inner = (alpha[..., 0] > 0.99) & (picture[..., 3] > 250)
    middle = inner & (np.abs(np.arange(800)[None] - 400) < 60)
    error = np.abs(picture[..., :3] - truth * 255).mean(-1)
    assert error[middle].mean() < 3
    assert error[inner].mean() < 5
    low = np.abs(picture[..., :3] - np.roll(truth, 6, axis=0) * 255).mean(-1)
    assert low[middle].mean() > 2 * error[middle].mean()


@pytest.mark.parametrize("yaw", [0, 30, 60, 90, 135, 180, 225, 270, 315])
def test_no_background_bleeds_in(mesh, yaw):
    """The views' ground is white and the photo's is magenta; nobody wears either."""
    picture = render(mesh, yaw, 500).astype(np.int64)
    solid = picture[..., 3] == 255
    color = picture[solid][:, :3]
    white = (color.min(1) > 195).mean()
    magenta = ((color[:, 0] > 130) & (color[:, 2] > 130) & (color[:, 1] < 100)).mean()
    assert white < 0.0005 and magenta < 0.0005


def test_no_seams_where_charts_meet(mesh):
    """Both sides of a chart border read nearly the same colour."""
    places = np.round(mesh.vertices.astype(np.float64) * 1e6).astype(np.int64)
    _, index = np.unique(places, axis=0, return_inverse=True)
    order = np.argsort(index.ravel(), kind="stable")
    same = index.ravel()[order][1:] == index.ravel()[order][:-1]
    color = sample_texture(mesh.texture, mesh.uv)
    step = np.abs(color[order[1:]] - color[order[:-1]])[same].mean(1)
    assert same.sum() > 100
    assert np.median(step) < 3 and step.mean() < 8


def test_charts_cover_the_surface_once_and_do_not_overlap():
    from synchuman.surface.coarse import coarse_surface
    from synchuman.surface.decimate import decimate

    vertices, faces = decimate(*coarse_surface(surface_person.make().logits, [], quiet), FACES)
    atlas = unwrap(vertices, faces, SIZE, quiet, torch.device("cpu"))
    assert (atlas.source[atlas.faces] == faces).all()
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1
    hit = rasterize(atlas.uv.astype(np.float64) * SIZE, atlas.faces, SIZE, SIZE)
    covered = (hit.face >= 0).sum()
    assert hit.covered.sum() - covered < 0.001 * covered
    assert covered / SIZE**2 > 0.35
    assert atlas.charts < 400


def test_a_dark_view_is_matched_to_the_photo():
    person = surface_person.make()
    dark = (person.colors * 0.8).astype(np.uint8)
    seen = patch(render(build(person, colors=dark), 90, 600), 0.0, -0.2)
    assert np.abs(seen - TROUSERS * 255).max() < 8


def test_views_that_disagree_with_the_mesh_do_not_bleed():
    """Views that are shifted by three pixels, as generated ones are, leave no white border."""
    person = surface_person.make()
    shifted = {name: getattr(person, name).copy() for name in ("colors", "normals")}
    for images in shifted.values():
        images[1] = np.roll(images[1], 3, axis=1)
        images[3] = np.roll(images[3], -3, axis=1)
    result = build(person, **shifted)
    for yaw in (45, 90, 135, 270):
        picture = render(result, yaw, 400)
        color = picture[picture[..., 3] == 255][:, :3]
        assert (color.min(1) > 195).mean() < 0.001
    assert is_watertight(np.unique(result.vertices, axis=0, return_inverse=True)[1].ravel()[result.faces])


def test_build_can_be_stopped_inside_texturing():
    calls = []

    def stop(stage: str, step: int, total: int) -> None:
        calls.append((stage, step, total))
        if stage == "texture" and step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        build(surface_person.make(), stop)
    assert calls[-1][:2] == ("texture", 3)
    assert {stage for stage, _, _ in calls} == {"surface", "atlas", "texture"}
    assert all(0 <= step <= total for _, step, total in calls)


def test_sources_project_as_the_views_do():
    person = surface_person.make()
    points = np.random.default_rng(0).uniform(-0.1, 0.4, (50, 3))
    for source in view_sources(person.colors, person.normals):
        wanted = project(points, source.view) * person.colors.shape[1]
        assert np.allclose(source.pixels(points), wanted)
        assert np.allclose(project_to_pixels(source, torch.from_numpy(points)), wanted)
    assert len(view_sources(person.colors, person.normals)) == NUM_VIEWS


def test_photo_spans_the_cube():
    photo = np.zeros((300, 200, 4), np.uint8)
    photo[50:251, 60:100, 3] = 255
    source = photo_source(photo)
    assert source.pixels(np.array([0.0, 0.0, 0.5]))[1] == pytest.approx(50)
    assert source.pixels(np.array([0.0, 0.0, -0.5]))[1] == pytest.approx(250)
    assert source.pixels(np.zeros(3))[0] == pytest.approx(79.5)


def test_bad_images_are_refused():
    person = surface_person.make()
    with pytest.raises(ValueError, match="cut the person out"):
        build(person, photo=np.zeros((10, 10, 4), np.uint8))
    with pytest.raises(ValueError, match="colors must be"):
        build(person, colors=person.colors[:4])
    with pytest.raises(ValueError, match="differ in size"):
        build(person, colors=person.colors[:, :96, :96])


def test_raster_of_two_triangles_keeps_the_nearer():
    corners = np.array([[0, 0], [8, 0], [0, 8], [0, 0], [8, 0], [0, 8]], np.float64)
    hit = rasterize(corners, np.array([[0, 1, 2], [3, 5, 4]]), 8, 8, np.array([0.0, 0, 0, 1, 1, 1]))
    assert set(np.unique(hit.face)) == {-1, 1}
    assert hit.covered[0] == hit.covered[1] == (hit.face == 1).sum()
    rows, columns = np.nonzero(hit.face == 1)
    assert np.allclose(
        hit.interpolate(corners, np.array([[0, 1, 2], [3, 5, 4]])), np.stack([columns, rows], 1) + 0.5
    )


def test_preview_styles(mesh):
    normal = render(mesh, 0, 200, "normal")
    chest = patch(normal, 0.0, 0.15)
    assert chest[2] > 230 and abs(chest[0] - 128) < 20
    right = patch(render(mesh, 90, 200, "normal"), 0.0, -0.2)
    assert right[2] > 200
    with pytest.raises(ValueError, match="clay"):
        render(mesh, 0, 64, "oil")  # type: ignore[arg-type]
