"""The page in a real browser: from a photo to a model, cancelled and reopened runs, bad photos, phones."""

from __future__ import annotations

import io
import os
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_person, encode
from page_visit import PHONE, QUICK, Visit, chromium, expect
from PIL import Image
from service_server import Server, broken_weights, serving

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page") / "data", "--page") as server:
        yield server.ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="class")
def done(browser: Any, server: Server, person_png: bytes) -> Iterator[Visit]:
    """A window with a finished run, for all tests that leave it there; drawing it keeps a processor busy."""
    visit = Visit(browser, server.address, accept_downloads=True)
    expect(visit.at("#generate")).to_be_disabled()
    visit.give_and_wait(person_png)
    visit.see("#cutout img")
    visit.set(**QUICK)
    visit.at("#generate").click()
    visit.see("#colors img")
    visit.see(".status.good")
    visit.first_run = visit.run_id()  # type: ignore[attr-defined]
    yield visit
    visit.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    visit = Visit(browser, server.address)
    yield visit
    visit.close()


def picture(visit: Visit, selector: str, folder: Path) -> np.ndarray:
    visit.at(selector).first.screenshot(path=folder / "shot.png")
    with Image.open(folder / "shot.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def canvas_when_drawn(visit: Visit, folder: Path) -> np.ndarray:
    """Return the middle column of the 3D canvas, once it shows something besides its background."""
    for _ in range(40):
        visit.page.wait_for_timeout(500)
        pixels = picture(visit, "#model canvas", folder)
        middle = pixels[pixels.shape[0] // 4 : -pixels.shape[0] // 4, pixels.shape[1] // 2]
        if (np.abs(middle - pixels[pixels.shape[0] // 2, :20].mean(0)).max(-1) > 40).mean() > 0.5:
            return middle
    raise AssertionError("the 3D canvas stays empty")


FRAMES = """(milliseconds) => new Promise((tell) => {
  let frames = 0, on = true;
  const next = () => { if (on) { frames += 1; requestAnimationFrame(next); } };
  const never = requestAnimationFrame(() => { frames += 1000; });
  cancelAnimationFrame(never);
  requestAnimationFrame(next);
  setTimeout(() => { on = false; tell(frames); }, milliseconds);
})"""


def test_a_page_that_nobody_touches_leaves_the_processor_to_the_run(visit: Visit) -> None:
    frames_when_touched(visit)
    visit.page.wait_for_timeout(2500)
    assert 1 <= visit.page.evaluate(FRAMES, 3000) <= 12  # four a second
    frames_when_touched(visit)


def frames_when_touched(visit: Visit) -> None:
    """Wait until a page that is touched draws more than four frames a second; a busy machine may not yet."""
    for x in range(300, 320):
        visit.page.mouse.move(x, 300)
        if visit.page.evaluate(FRAMES, 1500) > 1.5 * 4:
            return
    raise AssertionError("a page that is touched draws as little as one that nobody touches")


# Roles that a person without a screen has to know by a name.
NAMED = re.compile(
    r"- (button|link|textbox|spinbutton|slider|radio|checkbox|combobox|tab)(?= *(\[|:|$))", re.M
)


class TestResult:
    """What can be done with a finished run, in one window."""

    def test_the_model_is_seen_and_downloaded(self, done: Visit, tmp_path: Path) -> None:
        import trimesh

        page = done.page
        assert page.locator("#colors .grid-container img").count() == 5
        assert len(canvas_when_drawn(done, tmp_path))
        expect(page.locator("#normals")).to_be_hidden()
        page.locator("#kind").get_by_label("Normals").check()
        expect(page.locator("#colors")).to_be_hidden()
        done.see("#normals img")
        with page.expect_download() as download:
            page.locator("#download-glb").click()
        download.value.save_as(tmp_path / "model.glb")
        model = trimesh.load(tmp_path / "model.glb", force="mesh")
        assert len(model.faces) > 500 and model.extents.max() == pytest.approx(1.7, abs=0.05)
        with page.expect_download() as download:
            page.locator("#download-all").click()
        download.value.save_as(tmp_path / "all.zip")
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert {"run.json", "SecondStage/output.glb", "OneStage/color_0.png"} <= set(archive.namelist())
        page.locator("#formats summary").click()
        hrefs = [link.get_attribute("href") for link in page.locator("#formats a").all()]
        assert {href.rpartition("/")[2] for href in hrefs} >= {"usdz", "obj", "ply", "stl", "3mf", "mp4"}
        assert "gaussian decoder" in page.locator("#formats").inner_text()
        ply = page.request.get(f"{done.address}/{next(href for href in hrefs if href.endswith('/ply'))}")
        assert ply.status == 200 and ply.body().startswith(b"ply")
        assert done.outside() == [] and done.complaints == []

    def test_other_looks(self, done: Visit, tmp_path: Path) -> None:
        before = picture(done, "#model canvas", tmp_path)
        for look in ("Clay", "Normals", "Wire", "Colour"):
            done.at("#look").get_by_label(look).check()
            for _ in range(40):
                done.page.wait_for_timeout(500)
                after = picture(done, "#model canvas", tmp_path)
                if after.shape == before.shape and (np.abs(after - before).max(-1) > 12).mean() > 0.02:
                    break
            else:
                raise AssertionError(f"{look} looks like what was before it")
            before = after

    def test_compare_turntable_details(self, done: Visit, tmp_path: Path) -> None:
        done.tab("Compare")
        done.see("#compare img")
        done.tab("Turntable")
        done.see(".turntable .frame")
        slider = done.at(".turntable input[type=range]")
        slider.fill("9")
        side = picture(done, ".turntable .frame", tmp_path)
        slider.fill("0")
        assert np.abs(side - picture(done, ".turntable .frame", tmp_path)).mean() > 0.5
        # The animation is the job's export of that name, which test_exports makes.
        assert done.at(".turntable a").get_attribute("href") == f"jobs/{done.run_id()}/exports/webp"
        done.tab("Details")
        for text in ("Triangles", "Peak memory", "Views and structure", "GiB"):
            assert text in done.at("#numbers").inner_text()
        done.at("#files summary").click()
        assert done.at("#files a").count() > 20
        done.tab("Views")

    def test_everything_has_a_name_and_keys_reach_it(self, done: Visit) -> None:
        done.at("#settings-button").focus()
        assert done.at("#settings-button").get_attribute("aria-expanded") in ("true", "false")
        for name in ("Compare", "Turntable", "Texture", "Details", "Views"):
            done.tab(name)
            done.page.wait_for_timeout(300)
            tree = done.at("body").aria_snapshot()
            lines = tree.splitlines()
            nameless = [
                " / ".join(lines[i - 2 : i + 1])
                for i, line in enumerate(lines)
                if NAMED.search(line.rstrip())
            ]
            assert nameless == [], (name, nameless)
        headings = done.at("h1, h2").all_inner_texts()
        assert headings == ["SyncHuman Studio", "Photo", "Cut-out", "Result", "Your runs"]
        assert done.at("html").get_attribute("lang")
        done.at("#examples button.gallery-item").first.focus()
        reached = set()
        for _ in range(60):
            done.page.keyboard.press("Tab")
            reached.add(done.page.evaluate("document.activeElement.closest('[id]')?.id ?? ''"))
        assert {"touch-up", "settings-button", "generate", "download-glb", "copy-link"} <= reached, reached

    def test_texture_again_without_sampling(self, done: Visit, server: Server) -> None:
        before = done.run_id()
        done.tab("Texture")
        box = done.at("#new-faces input[type=number]")
        box.fill("1200")
        box.press("Tab")
        done.page.wait_for_timeout(700)
        expect(box).to_have_value("1200")
        done.at("#retexture").click()
        done.page.wait_for_url(lambda url: "run=" in url and before not in url)
        done.see(".status.good")
        job = server.job(done.run_id())
        assert job["kind"] == "retexture" and job["parent"] == before and job["settings"]["faces"] == 1200
        expect(done.at("#runs img")).to_have_count(2)
        # Each click counts, however quick; the older one is the second.
        for index in (1, 0, 1, 0, 1):
            done.at("#runs button").nth(index).click()
        done.shows(before)
        done.at("#runs button").first.click()
        done.shows(job["id"])
        # Deleting asks first.
        done.page.once("dialog", lambda dialog: dialog.dismiss())
        done.at("#delete").click()
        done.page.wait_for_timeout(1500)
        assert before not in done.page.url and done.at("#runs img").count() == 2
        done.page.once("dialog", lambda dialog: dialog.accept())
        done.at("#delete").click()
        expect(done.at("#runs img")).to_have_count(1)
        assert server.client.get(f"/jobs/{job['id']}").status_code == 404
        done.at("#runs button").first.click()
        done.shows(before)

    def test_a_link_opens_a_result_and_runs_it_again(
        self, done: Visit, browser: Any, server: Server, tmp_path: Path
    ) -> None:
        visit = Visit(browser, f"{server.address}/?run={done.first_run}", viewport=PHONE)  # type: ignore[attr-defined]
        visit.see(".status.good")
        assert len(canvas_when_drawn(visit, tmp_path))
        assert visit.overhang() <= 0
        expect(visit.at("#generate")).to_be_disabled()  # no photo is chosen here
        visit.at("#again").click()
        visit.page.wait_for_url(lambda url: "run=" in url and done.first_run not in url)  # type: ignore[attr-defined]
        again = server.job(visit.run_id())["settings"]
        assert again == server.job(done.first_run)["settings"]  # type: ignore[attr-defined]
        visit.see(".status.good")
        visit.page.goto(f"{server.address}/?run=0123456789abcdef")
        visit.see(".status.error")
        assert "no such job" in visit.at(".status.error").inner_text()
        visit.close()


def test_cancel_stops(visit: Visit, server: Server, person_png: bytes) -> None:
    visit.give_and_wait(person_png)
    long = {"stage1_steps": 100, "guidance": 2, "stage2_steps": 100, "stage2_guidance": 2}
    visit.set(**{**QUICK, **long, "faces": 200_000, "texture_size": 4096})
    visit.at("#generate").click()
    visit.at("#cancel").click()
    visit.see(".status.stopped")
    expect(visit.at("#generate")).to_be_enabled()
    [job] = server.client.get("/jobs?limit=1").json()["jobs"]
    assert server.end(job["id"])["state"] == "cancelled"


def finished(server: Server) -> int:
    return len(server.client.get("/jobs?state=done").json()["jobs"])


def test_an_earlier_run_is_looked_at_while_another_one_goes_on(
    visit: Visit, server: Server, person_png: bytes
) -> None:
    visit.give_and_wait(person_png)
    visit.set(**QUICK)
    earlier = visit.run()
    expect(visit.at("#runs img")).to_have_count(finished(server))
    visit.at("#setting-stage1_steps input[type=number]").fill("60")
    visit.at("#setting-stage1_steps input[type=number]").press("Tab")
    visit.page.wait_for_timeout(700)
    visit.at("#generate").click()
    visit.page.wait_for_url(lambda url: "run=" in url and earlier not in url)
    going = visit.run_id()
    os.kill(server.worker_pid(), signal.SIGSTOP)  # else it may be over before a busy browser has clicked
    try:
        visit.at("#runs button").first.click()
        visit.see(".toast-body")
        visit.shows(earlier)
        expect(visit.at("#cancel")).to_be_visible()
        expect(visit.at("#generate")).to_be_disabled()
    finally:
        os.kill(server.worker_pid(), signal.SIGCONT)
    while True:
        url, good = visit.page.url, visit.at(".status.good").count()
        if server.job(going)["state"] == "done":
            break
        assert earlier in url and good
        visit.page.wait_for_timeout(200)
    visit.shows(going)
    expect(visit.at("#generate")).to_be_enabled()
    expect(visit.at("#cancel")).to_be_hidden()
    expect(visit.at("#runs img")).to_have_count(finished(server))
    assert not visit.complaints


def test_a_page_loaded_anew_goes_on(visit: Visit, server: Server, person_png: bytes) -> None:
    visit.give_and_wait(person_png)
    visit.set(**{**QUICK, "stage1_steps": 8})
    visit.at("#generate").click()
    run = visit.run_id()
    visit.page.reload()
    visit.see(".status.good")
    assert visit.run_id() == run and server.job(run)["state"] == "done"
    visit.see("#download-glb")


def test_a_run_that_fails_says_why_and_keeps_what_there_is(
    browser: Any, person_png: bytes, tmp_path: Path
) -> None:
    with serving(tmp_path / "data", "--page", weights=broken_weights()) as server:
        server.ready()
        visit = Visit(browser, server.address)
        visit.give_and_wait(person_png)
        visit.set(**QUICK)
        visit.at("#generate").click()
        visit.see(".status.error")
        [job] = server.client.get("/jobs").json()["jobs"]
        assert job["state"] == "failed"
        assert visit.at(".status.error").inner_text() == job["error"]["message"]
        expect(visit.at("#generate")).to_be_enabled()
        expect(visit.at("#cancel")).to_be_hidden()
        visit.see("#cutout img")
        visit.see("#colors img")
        expect(visit.at("#setting-faces input[type=number]")).to_have_value(str(QUICK["faces"]))
        expect(visit.at("#download-glb")).to_have_count(0)
        assert not visit.complaints
        visit.close()


def test_bad_photo_is_a_sentence(visit: Visit, person_png: bytes) -> None:
    visit.give_and_wait(person_png)
    visit.give(b"this is no picture", "photo.jpg")
    visit.see("#cutout-note .error")
    assert "JPEG" in visit.at("#cutout-note .error").inner_text()
    expect(visit.at("#generate")).to_be_disabled()


def test_heic_by_file(visit: Visit) -> None:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(draw_person())).save(buffer, quality=90)
    with visit.page.expect_file_chooser() as chooser:
        visit.at("#heic").click()
    chooser.value.set_files({"name": "IMG_1.heic", "mimeType": "image/heic", "buffer": buffer.getvalue()})
    visit.see("#cutout img")


def test_one_of_two_people_touched_up(visit: Visit, tmp_path: Path) -> None:
    photos = [Image.open(EXAMPLES / f"person-{i}.jpg").resize((300, 400)) for i in (1, 3)]
    both = Image.new("RGB", (600, 400))
    for i, photo in enumerate(photos):
        both.paste(photo, (300 * i, 0))
    visit.give_and_wait(encode(np.asarray(both)))
    visit.see("#people img")
    first = visit.at("#cutout img").get_attribute("src")
    visit.at("#person").get_by_label("Person 2").check()
    expect(visit.at("#cutout img")).not_to_have_attribute("src", first)
    before = visit.at("#cutout img").get_attribute("src")
    full = opaque_pixels(visit)
    visit.at("#touch-up").click()
    visit.see("#editor canvas")
    visit.page.wait_for_timeout(1500)  # the editor takes its picture in
    visit.at("#editor canvas").first.scroll_into_view_if_needed()
    box = visit.at("#editor canvas").first.bounding_box()
    mouse, row = visit.page.mouse, box["y"] + box["height"] * 0.5
    mouse.move(box["x"] + box["width"] * 0.55, row)
    mouse.down()
    for i in range(8):
        mouse.move(box["x"] + box["width"] * (0.55 + 0.05 * i), row)
        visit.page.wait_for_timeout(40)
    mouse.up()
    visit.at("#apply-touch").click()
    expect(visit.at("#cutout-note")).to_contain_text("Touched up by hand.")
    expect(visit.at("#cutout img")).not_to_have_attribute("src", before)
    assert opaque_pixels(visit) < 0.97 * full
    visit.at("#touch-up").click()
    visit.see("#editor canvas")
    visit.at("#reset-touch").click()
    expect(visit.at("#cutout-note")).not_to_contain_text("Touched up by hand.")


def opaque_pixels(visit: Visit) -> int:
    """Count the pixels of the cut-out that is shown."""
    data = visit.page.request.get(visit.at("#cutout img").get_attribute("src")).body()
    with Image.open(io.BytesIO(data)) as image:
        return int((np.asarray(image)[..., 3] > 128).sum())


def test_preset_moves_the_settings(visit: Visit) -> None:
    visit.at("#settings-button").click()
    visit.page.get_by_label("Fast").check()
    expect(visit.at("#setting-stage1_steps input[type=number]")).to_have_value("8")
    visit.page.get_by_label("Best").check()
    expect(visit.at("#setting-texture_size input[type=number]")).to_have_value("4096")


def test_example_goes_at_a_click(visit: Visit) -> None:
    visit.at("#settings-button").click()
    visit.at("#randomise input").check()
    visit.at("#examples button.gallery-item").first.click()
    visit.run_id()
    expect(visit.at("#setting-seed input")).not_to_have_value("43")
    visit.see("#cutout img")
    if visit.at("#cancel").is_visible():
        visit.at("#cancel").click()


@pytest.mark.parametrize(
    ("locale", "generate", "heading", "error"),
    [
        ("de-DE", "Erzeugen", "Foto", "kein lesbares Foto"),
        ("zh-CN", "生成", "照片", "不是可读取的照片"),
        ("fi-FI", "Generate", "Photo", "not a photo"),
    ],
)
def test_languages(
    browser: Any, server: Server, locale: str, generate: str, heading: str, error: str
) -> None:
    visit = Visit(browser, server.address, locale=locale)
    expect(visit.at("#generate")).to_have_text(generate)
    expect(visit.at("h2").first).to_have_text(heading)
    visit.give(b"no picture")
    expect(visit.at("#cutout-note .error")).to_contain_text(error)
    visit.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (900, "light")])
def test_fits_the_screen(browser: Any, server: Server, width: int, scheme: str) -> None:
    visit = Visit(browser, server.address, viewport={"width": width, "height": 844}, color_scheme=scheme)
    visit.give_and_wait(encode(draw_person()))
    visit.at("#settings-button").click()
    assert visit.overhang() <= 0
    visit.close()
