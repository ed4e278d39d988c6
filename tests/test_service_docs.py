"""The examples of docs/api.md, run in their order against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import draw_person
from PIL import Image
from service_server import ROOT, shared_server

from synchuman.serving import routes_generate

TEXT = (ROOT / "docs" / "api.md").read_text()


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))


def test_the_examples_work(tmp_path: Path) -> None:
    assert shutil.which("curl"), "the examples use curl: apt-get install curl"
    work = tmp_path / "work"
    work.mkdir()
    photo = Image.fromarray(draw_person(320))
    white = Image.new("RGB", photo.size, "white")
    white.paste(photo, mask=photo.getchannel("A"))
    white.save(work / "photo.jpg", quality=90)
    server = shared_server()
    env = {**os.environ, "SERVER": server.address}
    shell = subprocess.run(
        ["bash", "-xeuo", "pipefail", "-c", blocks("bash")],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
    )
    assert shell.returncode == 0, shell.stderr[-3000:]
    assert "event: done" in shell.stdout and (work / "person.glb").read_bytes()[:4] == b"glTF"
    assert b"EXT_texture_webp" in (work / "small.glb").read_bytes()[:4000]
    assert all(zipfile.is_zipfile(work / name) for name in ("figure.3mf", "person.usdz"))
    names: dict[str, object] = {"SERVER": server.address}
    before = Path.cwd()
    try:
        os.chdir(work)
        exec(blocks("python"), names)
    finally:
        os.chdir(before)
    assert names["stopped"]["cancelling"] and callable(names["genuine"])  # type: ignore[index]
    assert names["made"]["mode"] == "stage1_only" and names["made"]["state"] == "done"  # type: ignore[index]
    assert Path(str(names["model"])).read_bytes()[:4] == b"glTF"
    assert names["started"]["settings"]["seed"] == 7 and names["now"]["state"] in ("queued", "running")  # type: ignore[index]
    answer = names["answer"]
    assert not answer.isError and "queued" in answer.content[0].text  # type: ignore[attr-defined]
    for job in server.client.get("/jobs?state=queued").json()["jobs"]:
        server.client.delete(f"/jobs/{job['id']}")


def test_every_event_and_code_of_a_job_is_told() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "synchuman" / "serving").glob("*.py")}
    events = set(
        re.findall(r'\.tell\(\s*"(\w+)"', sources["runner.py"] + sources["worker.py"] + sources["line.py"])
    )
    everything = "\n".join(sources.values())
    codes = set(re.findall(r'(?:Failure|_failed)\(\s*"(\w+)"', everything))
    codes |= set(re.findall(r'return "(\w+)", ', sources["failures.py"])) | set(routes_generate.STATUS)
    assert {"progress", "waiting", "fallback"} <= events and {"timeout", "files_lost", "bad_run"} <= codes
    assert not {name for name in events | codes if f"`{name}`" not in TEXT}


@pytest.mark.parametrize("what", ["routes", "fields", "flags"])
def test_nothing_is_left_out(what: str) -> None:
    from synchuman.serving import routes_about, routes_exports, routes_generate, routes_jobs
    from synchuman.serving.forms import GenerateForm

    if what == "routes":
        routes = [
            r.path
            for m in (routes_about, routes_exports, routes_generate, routes_jobs)
            for r in m.router.routes
        ]
        names = {path.split("{")[0].rstrip("/") for path in routes}
    elif what == "fields":
        names = {f"`{name}`" for name in GenerateForm.model_fields}
    else:
        # What the text names must exist; not every knob needs a sentence.
        shown = subprocess.run(
            [sys.executable, "api_server.py", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
        assert len(named) > 8 and not {name for name in named if name not in shown.stdout}
        return
    assert not {name for name in names if name not in TEXT}
