"""The page on the service, in a real browser: behind the login, under the content policy, with the same jobs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from page_visit import FLAGS
from service_server import Server, person, serving

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PATIENCE = 120_000  # ms


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--page", "--auth", "carol:a pass word", "--logins-per-minute", "0")
    with serving(tmp_path_factory.mktemp("page") / "data", *arguments, works=False) as server:
        yield server


def test_a_person_logs_in_and_starts_a_run(server: Server) -> None:
    assert CHROMIUM, "This test drives Chromium: install it or set CHROMIUM to its path."
    complaints: list[str] = []
    elsewhere: list[str] = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.on(
            "console", lambda m: complaints.append(m.text) if "Content Security Policy" in m.text else None
        )
        page.on("request", lambda r: None if r.url.startswith((server.address, "blob:", "data:"))
                else elsewhere.append(r.url))  # fmt: skip
        for path in ("/config", "/gradio_api/info", "/nothing", ""):
            page.goto(f"{server.address}{path}")
            assert "/login" in page.url
        page.fill("#username", "carol")
        page.fill("#password", "wrong")
        page.click("button")
        assert "wrong" in page.inner_text("[role=alert]")
        page.fill("#username", "carol")
        page.fill("#password", "a pass word")
        page.click("button")
        playwright.expect(page.locator("#generate")).to_be_visible(timeout=PATIENCE)
        page.locator("#photo input[type=file]").first.set_input_files(
            {"name": "me.png", "mimeType": "image/png", "buffer": person()}
        )
        playwright.expect(page.locator("#generate")).to_be_enabled(timeout=PATIENCE)
        page.locator("#generate").click()
        page.wait_for_url("**/?run=*")
        run = page.url.partition("run=")[2]
        browser.close()
    assert not complaints and not elsewhere
    # The page's runs are jobs of the same person, for REST as well, and of nobody else.
    assert server.client.get(f"/jobs/{run}").status_code == 401
    cookie = server.client.post("/login", data={"username": "carol", "password": "a pass word"})
    assert cookie.status_code == 200
    [job] = server.client.get("/jobs").json()["jobs"]
    assert job["id"] == run and job["state"] == "queued"
    assert "me.png" not in server.log.read_text()
