"""Makes the pictures of the page: idle, cut-out, running, done, failed; desktop and phone, light and dark.

Starts the page on a free port, drives Chromium, and writes PNG files. Needs the extra `test` and Chromium
(its path in CHROMIUM, or `chromium` on the path).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
# WebGL without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 600_000  # ms
MORE_TABS = ("compare", "turntable", "texture", "details")


def main() -> int:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    parser.add_argument("--photo", type=Path, default=ROOT / "assets" / "examples" / "person-1.jpg")
    parser.add_argument("--preset", default="Balanced", help="of the run that is shown")
    parser.add_argument("--variant", default="mini", help="name of the weights, or a folder of them")
    parser.add_argument("--language", default="en-US", help="that the browser asks for")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of the window")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES), help="of colours")
    parser.add_argument("--looks", action="store_true", help="the other looks and tabs, too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with page_up(options.variant) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
        )
        run = ""
        for size in options.sizes:
            for scheme in options.schemes:
                run = shoot(browser, address, options, size, scheme, run)
        browser.close()
    return 0


@contextlib.contextmanager
def page_up(variant: str) -> Iterator[str]:
    """Serve the page for a while; give its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "app.py", "--outputs", folder, "--variant", variant]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"http://\S+", line)
                if found:
                    yield found[0]
                    break
        finally:
            process.terminate()
            process.wait()


def shoot(browser: Any, address: str, options: Any, size: str, scheme: str, run: str) -> str:
    """Make the pictures of one size and scheme; return the run shown as done, a new one if none is given."""
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme, locale=options.language)
    page = context.new_page()

    def shot(name: str) -> None:
        page.wait_for_timeout(400)
        page.screenshot(path=options.out / f"{name}-{size}-{scheme}.png", full_page=True)

    page.goto(address)
    page.locator(".chip.ready").wait_for(timeout=PATIENCE)
    shot("idle")
    give(page, options.photo.read_bytes())
    page.locator("#generate:enabled").wait_for(timeout=PATIENCE)
    shot("cutout")
    page.locator(f"#preset input[value={options.preset}]").check()
    page.locator("#generate").click()
    page.locator("#colors img").first.wait_for(timeout=PATIENCE)
    shot("running")
    if run:
        # The run of this picture goes on for a while and is stopped, as nobody watches it.
        page.goto(f"{address}/?run={run}")
    page.locator(".status.good").wait_for(timeout=PATIENCE)
    run = page.locator("#run-id textarea, #run-id input").input_value()
    for part in ("#views", "#runs-card", "#model"):  # drawn and loaded only in sight
        page.locator(part).scroll_into_view_if_needed()
        page.wait_for_timeout(1500)
    page.wait_for_timeout(8000)  # without a graphics card the viewer needs a while for light and camera
    shot("done")
    if options.looks:
        for look in ("clay", "normals", "wire"):
            page.locator(f"#look input[value={look}]").check()
            page.wait_for_timeout(4000)
            page.locator("#model").screenshot(path=options.out / f"look-{look}-{size}-{scheme}.png")
        for tab in MORE_TABS:
            page.locator("#views").get_by_role("tab").nth(1 + MORE_TABS.index(tab)).click()
            page.wait_for_timeout(9000 if tab == "turntable" else 3000)
            shot(f"tab-{tab}")
        page.locator("#about > button").click()
        shot("about")
    give(page, b"this is no picture")
    page.locator("#cutout-note .error").wait_for(timeout=PATIENCE)
    shot("failed")
    context.close()
    return run


def give(page: Any, data: bytes) -> None:
    """Choose a photo, in place of the one before."""
    file = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": data}
    page.locator("#photo input[type=file]").first.set_input_files(file)


if __name__ == "__main__":
    sys.exit(main())
