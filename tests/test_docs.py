"""The documents: links and pictures are there, commands can be run, forms and lists are valid."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import dockerfile_steps
import draw_way
import gpu_table
import make_space
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("assets/*/README.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_are_there(document: Path) -> None:
    text = document.read_text()
    for link in LINK.findall(text):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name}: {link}"
        if anchor:
            assert anchor in _anchors(target.read_text()), f"{document.name}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_commands_parse_and_name_what_is_there(document: Path) -> None:
    for language, block in FENCE.findall(document.read_text()):
        if language not in ("bash", "sh"):
            continue
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, f"{document.name}: {done.stderr}"
        for name in re.findall(r"(?:python3?|bash|sudo) ((?:[\w./-]+/)?[\w-]+\.(?:py|sh))", block):
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def _commands() -> list[list[str]]:
    found = set()
    for document in DOCUMENTS:
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", document.read_text(), re.M | re.S):
            found |= set(
                re.findall(r"^python3? (-m synchuman(?:\.[\w.]+)?(?: [a-z_]+)?|\w+\.py)", block, re.M)
            )
    return [command.split() for command in sorted(found)]


def test_commands_of_the_documents_are_known() -> None:
    commands = [command for command in _commands() if not command[1:2] or "training" not in command[1]]
    assert ["api_server.py"] in commands and ["-m", "synchuman", "run"] in commands
    for command in commands:
        done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def test_options_in_the_documents_are_known() -> None:
    asked = [("api_server.py", "--ray"), ("api_server.py", "--proxy"), ("-m synchuman batch", "--upload")]
    for command, option in asked:
        words = [sys.executable, *command.split(), "--help"]
        assert option in subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "synchuman").rglob("*.py")))
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # sentences that go on in the next line
    quoted = re.findall(r'\*\*"(.+?)"\*\*', (ROOT / "docs/troubleshooting.md").read_text())
    assert len(quoted) > 10
    assert not [words for words in quoted if words.removesuffix("…").strip() not in text]


def test_the_drawing_is_that_of_its_script() -> None:
    assert draw_way.TARGET.read_text() == draw_way.draw()
    ElementTree.fromstring(draw_way.draw())


def test_the_table_of_cards_is_that_of_the_measurements(tmp_path: Path) -> None:
    page = gpu_table.TARGET.read_text()
    assert f"{gpu_table.BEGIN}\n{gpu_table.table(gpu_table.read(gpu_table.MEASURED))}{gpu_table.END}" in page
    whole = {"photo to GLB, first run": {"s": 20.0}, "photo to GLB, second run": {"s": 9.96}}
    memory = {"photo to GLB, resident": {"reserved": 11.84}}
    found = {"environment": {"gpu": "H100", "torch": "2.13.0"}, "whole": whole, "memory": memory}
    (tmp_path / "h100.json").write_text(json.dumps(found))
    (row,) = gpu_table.table(gpu_table.read(tmp_path)).splitlines()[2:]
    assert row == "| H100 | 10.0 | 11.8 |  | 2.13.0 |"


def test_issue_forms_are_valid() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    for form in forms:
        read = yaml.safe_load(form.read_text())
        for field in read.get("body", []):
            assert field["type"] in ("markdown", "textarea", "input", "dropdown")
            assert field["type"] == "markdown" or field["attributes"]["label"]
    assert len(forms) == 4


@pytest.mark.parametrize("kind", list(make_space.KINDS))
def test_a_space_has_all_that_it_runs(kind: str, tmp_path: Path) -> None:
    make_space.write(kind, tmp_path / "space")
    readme = (tmp_path / "space/README.md").read_text()
    settings = yaml.safe_load(readme.split("---\n")[1])
    assert settings["title"] and len(settings["short_description"]) <= 60
    requirements = (tmp_path / "space/requirements.txt").read_text()
    assert ("torch==2.11.0" in requirements) == (kind == "zerogpu")
    if kind == "docker":
        assert settings["app_port"] == 8000 and (tmp_path / "space/docker/start.sh").stat().st_mode & 0o100
        entry = ["api_server.py", "--help"]
    else:
        assert settings["python_version"] == "3.12" and settings["sdk_version"].count(".") == 2
        entry = [settings["app_file"], "--help"]
    done = subprocess.run(
        [sys.executable, "-E", *entry], cwd=tmp_path / "space", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_readme_starts_with_its_title() -> None:
    assert (ROOT / "README.md").read_text().startswith("# SyncHuman Studio\n")


def test_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    patterns = dockerfile_steps.ignore_patterns(ROOT / ".dockerignore")
    stages = dockerfile_steps.read_stages(ROOT / "Dockerfile", {})
    steps = [step for stage in stages for step in stage.steps]
    for step in steps:
        if step.word == "COPY" and "from" not in step.flags:
            for source in step.words()[:-1]:
                assert (ROOT / source).exists(), f"line {step.line}: {source}"
                assert not dockerfile_steps.ignored(patterns, source), f"line {step.line}: {source}"
    last = {step.word: step for step in stages[-1].steps}
    assert last["USER"].text == "1000" and last["EXPOSE"].text == "8000" and "HEALTHCHECK" in last
    assert dockerfile_steps.ignored(patterns, ".git/config") and dockerfile_steps.ignored(
        patterns, "runs/a.glb"
    )
    assert dockerfile_steps.ignored(patterns, "synchuman/__pycache__/cli.pyc")
    assert not dockerfile_steps.ignored(patterns, "synchuman/nn/flow.py")


def test_scripts_parse() -> None:
    scripts = ["setup_instance.sh", "docker/start.sh", "tests/run.sh", *map(str, ROOT.glob("scripts/*.sh"))]
    for script in scripts:
        assert subprocess.run([shutil.which("bash") or "bash", "-n", str(ROOT / script)]).returncode == 0


def test_locks_hold_every_requirement_with_a_hash() -> None:
    locked = (ROOT / "requirements.lock").read_text() + (ROOT / "requirements-torch.lock").read_text()
    names = re.findall(r"^([\w.-]+)==", locked, re.M)
    wanted = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.M)
    missing = [name for name in wanted if name.replace("_", "-").lower() not in names]
    assert not missing, f"run python scripts/lock.py: {missing}"
    assert locked.count("--hash=sha256:") >= len(names)
