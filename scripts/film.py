"""Makes the film of the page for the README: a photo is given, the views fill, the model turns.

Starts the page, drives Chromium as `screenshots.py` does, and writes an animated WebP of what is to be seen.
Waiting is cut: a picture is kept when something has changed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageStat
from screenshots import FLAGS, PATIENCE, ROOT, give, page_up

SIZE = {"width": 1280, "height": 1270}  # nothing has to be scrolled
WIDTH = 860  # of the film, in pixels
QUALITY = 62
LONGEST_RUN = 26  # pictures that are kept of the run
SAME = 0.02  # mean difference of grey levels below which two pictures count as the same
TEAL = (13, 148, 136)


class Film:
    """Pictures of a page, each with its time, and the pointer drawn into them."""

    def __init__(self, page: Any) -> None:
        """Begin with nothing; the pointer is out of sight."""
        self.page = page
        self.pointer: tuple[float, float] | None = None
        self.pictures: list[tuple[Image.Image, int]] = []

    def picture(self) -> Image.Image:
        """Return the page as it is now."""
        picture = Image.open(io.BytesIO(self.page.screenshot(type="png"))).convert("RGB")
        picture = picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS)
        if self.pointer is not None:
            x, y = (WIDTH / SIZE["width"] * value for value in self.pointer)
            ImageDraw.Draw(picture, "RGBA").ellipse(
                (x - 9, y - 9, x + 9, y + 9), fill=(*TEAL, 110), outline=(*TEAL, 255), width=2
            )
        return picture

    def hold(self, milliseconds: int) -> None:
        """Show the page as it is now for a while."""
        self.pictures.append((self.picture(), milliseconds))

    def point(self, selector: str) -> None:
        """Move the pointer to the middle of something."""
        box = self.page.locator(selector).first.bounding_box()
        self.pointer = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def until(self, selector: str, milliseconds: int, most: int) -> None:
        """Show what changes until something is there; no more than `most` pictures of it, evenly picked."""
        kept: list[Image.Image] = []
        for _ in range(PATIENCE // 500):
            over = self.page.locator(selector).count() > 0
            now = self.picture()
            before = kept[-1] if kept else self.pictures[-1][0]
            if max(ImageStat.Stat(ImageChops.difference(now, before)).mean) > SAME:
                kept.append(now)
            if over:
                break
            self.page.wait_for_timeout(500)
        else:
            raise TimeoutError(f"{selector} did not appear.")
        step = max(len(kept) / most, 1.0)
        self.pictures += [(kept[int(i * step)], milliseconds) for i in range(int(len(kept) / step))]

    def save(self, path: Path) -> None:
        """Write the film; it runs forever."""
        first, *rest = (picture for picture, _ in self.pictures)
        times = [time for _, time in self.pictures]
        first.save(
            path, "WEBP", save_all=True, append_images=rest, duration=times, loop=0, quality=QUALITY, method=5
        )


def main() -> int:
    """Make the film."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "page.webp")
    parser.add_argument("--photo", type=Path, default=ROOT / "assets" / "examples" / "person-1.jpg")
    parser.add_argument("--preset", default="Balanced", help="of the run that is shown")
    parser.add_argument("--variant", default="mini", help="name of the weights, or a folder of them")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with page_up(options.variant) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", locale="en-US")
        page.goto(address)
        page.locator(".chip.ready").wait_for(timeout=PATIENCE)
        film = Film(page)
        shoot(film, options.photo.read_bytes(), options.preset)
        browser.close()
    film.save(options.out)
    seconds = sum(time for _, time in film.pictures) / 1000
    size = options.out.stat().st_size / 1e6
    sys.stdout.write(f"{options.out}: {len(film.pictures)} pictures, {seconds:.0f} s, {size:.1f} MB\n")
    return 0


def shoot(film: Film, photo: bytes, preset: str) -> None:
    """Give a photo, generate, turn the model, look at it in clay and as normals."""
    page = film.page
    page.locator(f"#preset input[value={preset}]").check()
    page.wait_for_timeout(500)
    film.hold(1000)
    film.point("#photo")
    film.hold(500)
    give(page, photo)
    film.until("#generate:enabled", 250, 4)
    film.hold(700)
    film.point("#generate")
    film.hold(600)
    page.locator("#generate").click()
    film.until(".status.good", 230, LONGEST_RUN)
    page.locator("#model").scroll_into_view_if_needed()
    page.wait_for_timeout(9000)  # without a graphics card the viewer needs a while for light and camera
    film.hold(1200)
    turn(film)
    for look in ("clay", "normals", "texture"):
        film.point(f"#look label:has(input[value={look}])")
        page.locator(f"#look input[value={look}]").check()
        page.wait_for_timeout(5000)
        film.hold(1100)
    film.pointer = None
    film.hold(1500)


def turn(film: Film, strokes: int = 2, steps: int = 10) -> None:
    """Drag in the viewer, so that the model turns once."""
    page = film.page
    box = page.locator("#model canvas").first.bounding_box()
    left, y = box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.5
    for _ in range(strokes):
        page.mouse.move(left, y)
        page.mouse.down()
        for step in range(1, steps + 1):
            film.pointer = left + 0.8 * box["width"] * step / steps, y
            page.mouse.move(*film.pointer)
            page.wait_for_timeout(700)
            film.hold(130)
        page.mouse.up()


if __name__ == "__main__":
    sys.exit(main())
