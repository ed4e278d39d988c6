"""A browser on the page, for tests that drive it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PATIENCE = 120_000  # ms, of every wait; two busy cores take their time
playwright.expect.set_options(timeout=PATIENCE)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# WebGL without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
QUICK = {
    "stage1_steps": 2, "guidance": 1, "stage2_steps": 1, "stage2_guidance": 1, "faces": 2000, "texture_size": 256,
}  # fmt: skip


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser for the length of a block."""
    assert CHROMIUM, "These tests drive Chromium: install it or set CHROMIUM to its path."
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A window on the page that remembers what was asked of the network and what went wrong."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        """Open the page in a window of its own."""
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.address = address
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.page.goto(address)
        expect(self.at("#generate")).to_be_visible()

    def at(self, selector: str) -> Any:
        """Return what a selector finds."""
        return self.page.locator(selector)

    def see(self, selector: str) -> None:
        """Wait until something is seen."""
        expect(self.at(selector).first).to_be_visible()

    def give(self, data: bytes, name: str = "photo.png") -> None:
        """Choose a photo."""
        self.at("#photo input[type=file]").first.set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": data}
        )

    def give_and_wait(self, data: bytes) -> None:
        """Choose a photo and wait for its cut-out."""
        self.give(data)
        expect(self.at("#generate")).to_be_enabled()

    def set(self, **values: float) -> None:
        """Open the settings and type, at once."""
        self.at("#settings-button").click()
        boxes = {name: self.at(f"#setting-{name} input[type=number]") for name in values}
        for name, box in boxes.items():
            box.fill(str(values[name]))
            box.press("Tab")
        # The first change takes the preset off; what was typed must outlive that.
        expect(self.at("#preset input:checked")).to_have_count(0)
        self.page.wait_for_timeout(700)
        for name, box in boxes.items():
            expect(box).to_have_value(str(values[name]))

    def run(self) -> str:
        """Generate, wait for the result, return the run's name."""
        self.at("#generate").click()
        self.see(".status.good")
        return self.run_id()

    def run_id(self) -> str:
        """Return the run that the address names."""
        self.page.wait_for_url("**/?run=*")
        return self.page.url.partition("run=")[2]

    def shows(self, run: str) -> None:
        """Wait until the address, the downloads and what is said are those of a finished run."""
        expect(self.at("#download-glb")).to_have_attribute("href", re.compile(run))
        self.page.wait_for_url(f"**/?run={run}")
        self.see(".status.good")

    def tab(self, name: str) -> None:
        """Choose a tab below the model."""
        self.at("#views").get_by_role("tab", name=name, exact=True).click()

    def outside(self) -> list[str]:
        """Return requests that left this machine."""
        return [url for url in self.requests if not url.startswith((self.address, "data:", "blob:"))]

    def overhang(self) -> int:
        """Return the pixels by which the page is wider than the window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    def _note(self, message: Any) -> None:
        if message.type == "error" and "Content Security Policy" in message.text:
            self.complaints.append(message.text)


def expect(locator: Any) -> Any:
    """Return assertions on what a locator finds, which wait a while."""
    return playwright.expect(locator)
