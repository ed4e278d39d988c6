"""The page in a real browser: from a photo to a model on the screen, cancelled runs, bad photos, phones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_person, encode
from PIL import Image

from synchuman.settings import Settings

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SHOTS = os.environ.get("PAGE_SCREENSHOTS")
RUN_TIMEOUT = 240_000  # ms; two busy cores take their time


@pytest.fixture(scope="module")
def address(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from synchuman.serving.launch import ServeOptions, make_page, open_page

    before = dict(os.environ)
    options = ServeOptions(variant=str(weights), outputs=tmp_path_factory.mktemp("outputs"))
    page = make_page(options)
    yield open_page(page, options)[0]
    page.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    assert CHROMIUM, "These tests drive Chromium: install it or set CHROMIUM to its path."
    with playwright.sync_playwright() as p:
        # SwiftShader: WebGL without a graphics card.
        arguments = [
            "--no-sandbox",
            "--use-gl=angle",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
        ]
        browser = p.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visit:
    """A browser window on the page that remembers what was asked of the network and what went wrong."""

    def __init__(self, browser: playwright.Browser, address: str, **context: object) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        playwright.expect(self.page.locator("#generate")).to_be_visible(timeout=60_000)

    def give(self, data: bytes, name: str = "photo.png") -> None:
        self.page.locator("#photo input[type=file]").first.set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": data}
        )

    def set_fast(self, steps: int) -> None:
        self.page.locator("#settings > button").click()
        values = {"stage1_steps": steps, "guidance": 1, "stage2_steps": 2, "faces": 2000, "texture_size": 512}
        boxes = {name: self.page.locator(f"#setting-{name} input[type=number]") for name in values}
        see(boxes["stage1_steps"])
        self.page.wait_for_timeout(500)  # a slider that has just been mounted takes its first value once more
        for name, box in boxes.items():
            box.fill(str(values[name]))
            box.press("Tab")
        # The first change takes the preset off; what was typed must outlive that.
        playwright.expect(self.page.locator("#preset input:checked")).to_have_count(0)
        for name, box in boxes.items():
            playwright.expect(box).to_have_value(str(values[name]))

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)

    def outside(self) -> list[str]:
        local = ("http://127.0.0.1", "http://localhost", "data:", "blob:")
        return [url for url in self.requests if not url.startswith(local)]


@pytest.fixture
def visit(browser: playwright.Browser, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield visit
    visit.context.close()


def see(locator: playwright.Locator, timeout: int = 30_000) -> None:
    playwright.expect(locator).to_be_visible(timeout=timeout)


def test_photo_to_model_on_the_page(visit: Visit, person_png: bytes, tmp_path: Path) -> None:
    import trimesh

    page = visit.page
    visit.shot("empty-desktop-light")
    playwright.expect(page.locator("#generate")).to_be_disabled()
    visit.give(person_png)
    see(page.locator("#cutout img"))
    playwright.expect(page.locator("#generate")).to_be_enabled(timeout=30_000)
    visit.shot("cutout-desktop-light")
    visit.set_fast(steps=5)
    page.locator("#settings > button").click()
    page.locator("#generate").click()
    see(page.locator(".status.running"))
    see(page.locator("#cancel"))
    see(page.locator("#colors img").first, RUN_TIMEOUT)
    visit.shot("running-desktop-light")
    see(page.locator(".status.good"), RUN_TIMEOUT)
    assert page.locator("#colors .grid-container img").count() == 5
    see(page.locator("#model canvas"))
    assert "Triangles" in page.locator("#numbers").inner_text()
    assert canvas_has_content(visit, tmp_path)
    visit.shot("done-desktop-light")
    page.get_by_role("tab", name="Normals").click()
    see(page.locator("#normals img").first)

    with page.expect_download() as download:
        page.locator("#download-glb").click()
    glb = tmp_path / "model.glb"
    download.value.save_as(glb)
    model = trimesh.load(glb, force="mesh")
    assert len(model.faces) > 500 and model.extents[1] == pytest.approx(1.7, abs=0.05)
    with page.expect_download() as download:
        page.locator("#download-views").click()
    assert download.value.suggested_filename.endswith(".zip")
    assert visit.outside() == []

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    visit.shot("done-phone")
    assert overhang(visit) <= 0


def overhang(visit: Visit) -> int:
    """Pixels by which the page is wider than the window."""
    return visit.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def canvas_has_content(visit: Visit, folder: Path) -> bool:
    """Tell whether the 3D canvas shows something besides its background, waiting for it to be drawn."""
    for _ in range(40):
        visit.page.wait_for_timeout(500)
        visit.page.locator("#model canvas").screenshot(path=folder / "canvas.png")
        with Image.open(folder / "canvas.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        middle = pixels[pixels.shape[0] // 4 : -pixels.shape[0] // 4, pixels.shape[1] // 2]
        border = pixels[pixels.shape[0] // 2, :20].mean(0)
        if (np.abs(middle - border).max(-1) > 40).mean() > 0.5:
            return True
    return False


def test_cancel_stops_and_the_next_run_works(visit: Visit, person_png: bytes) -> None:
    page = visit.page
    visit.give(person_png)
    playwright.expect(page.locator("#generate")).to_be_enabled(timeout=30_000)
    visit.set_fast(steps=100)
    page.locator("#generate").click()
    playwright.expect(page.locator(".status")).to_contain_text("of 100", timeout=RUN_TIMEOUT)
    page.locator("#cancel").click()
    see(page.locator(".status.stopped"), 60_000)
    see(page.locator("#cutout img"))
    playwright.expect(page.locator("#generate")).to_be_enabled()
    box = page.locator("#setting-stage1_steps input[type=number]")
    box.fill("1")
    box.press("Tab")
    page.locator("#generate").click()
    see(page.locator(".status.good"), RUN_TIMEOUT)


def test_bad_photo_is_a_sentence(visit: Visit) -> None:
    page = visit.page
    visit.give(b"this is no picture")
    note = page.locator("#cutout-note .error")
    see(note)
    assert "JPEG" in note.inner_text()
    playwright.expect(page.locator("#generate")).to_be_disabled()
    visit.shot("bad-photo")
    assert visit.outside() == []


def test_heic_by_file(visit: Visit) -> None:
    import io

    import pillow_heif

    rgba = draw_person()
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(rgba)).save(buffer, quality=90)
    with visit.page.expect_file_chooser() as chooser:
        visit.page.locator("#heic").click()
    chooser.value.set_files({"name": "IMG_1.heic", "mimeType": "image/heic", "buffer": buffer.getvalue()})
    see(visit.page.locator("#cutout img"))


def test_preset_moves_the_settings(visit: Visit) -> None:
    page = visit.page
    page.locator("#settings > button").click()
    page.get_by_label("Fast").check()
    playwright.expect(page.locator("#setting-stage1_steps input[type=number]")).to_have_value("8")
    page.get_by_label("Best").check()
    playwright.expect(page.locator("#setting-texture_size input[type=number]")).to_have_value("4096")


def test_example_goes_at_a_click(visit: Visit) -> None:
    page = visit.page
    page.locator("#settings > button").click()
    page.locator("#randomise input").check()
    page.locator("#examples button.gallery-item").first.click()
    playwright.expect(page.locator(".status")).to_contain_text("step", timeout=RUN_TIMEOUT)
    playwright.expect(page.locator("#setting-seed input")).not_to_have_value("43")
    see(page.locator("#cutout img"))
    page.locator("#cancel").click()
    see(page.locator(".status.stopped"), 60_000)


def test_endpoints_have_names_and_errors(address: str, person_png: bytes, tmp_path: Path) -> None:
    import gradio_client

    client = gradio_client.Client(address, verbose=False)
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/cutout", "/generate", "/cancel"} <= set(named)
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"no photo")
    quick = Settings(stage1_steps=1, guidance=1.0, stage2_steps=1, faces=1000, texture_size=256)
    settings = quick.model_dump().values()
    with pytest.raises(gradio_client.exceptions.AppError, match="JPEG"):
        client.predict(gradio_client.handle_file(photo), None, *settings, api_name="/generate")
    photo.write_bytes(person_png)
    result = client.predict(gradio_client.handle_file(photo), None, *settings, api_name="/generate")
    assert any(str(value).endswith(".glb") or ".glb" in str(value) for value in result)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_screen(browser: playwright.Browser, address: str, width: int, scheme: str) -> None:
    visit = Visit(browser, address, viewport={"width": width, "height": 844}, color_scheme=scheme)
    visit.give(encode(draw_person()))
    see(visit.page.locator("#cutout img"))
    too_wide = visit.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    visit.shot(f"cutout-{width}-{scheme}")
    visit.context.close()
    assert too_wide <= 0
