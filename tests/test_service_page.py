"""The page on the service, in a real browser: behind the login, under the content policy, with the same jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_visit import PATIENCE, chromium, expect
from service_server import Server, person, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--page", "--auth", "carol:a pass word", "--logins-per-minute", "0")
    with serving(tmp_path_factory.mktemp("page") / "data", *arguments, works=False) as server:
        yield server


def test_a_person_logs_in_and_starts_a_run(server: Server) -> None:
    complaints: list[str] = []
    elsewhere: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
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
        expect(page.locator("#generate")).to_be_visible()
        page.locator("#photo input[type=file]").first.set_input_files(
            {"name": "me.png", "mimeType": "image/png", "buffer": person()}
        )
        expect(page.locator("#generate")).to_be_enabled()
        page.locator("#generate").click()
        page.wait_for_url("**/?run=*")
        run = page.url.partition("run=")[2]
    assert not complaints and not elsewhere
    # The page's runs are jobs of the same person, for REST as well, and of nobody else.
    assert server.client.get(f"/jobs/{run}").status_code == 401
    cookie = server.client.post("/login", data={"username": "carol", "password": "a pass word"})
    assert cookie.status_code == 200
    [job] = server.client.get("/jobs").json()["jobs"]
    assert job["id"] == run and job["state"] == "queued"
    assert "me.png" not in server.log.read_text()
