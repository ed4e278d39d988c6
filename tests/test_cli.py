"""The command line, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import trimesh
from conftest import encode
from service_server import ROOT, tiny_weights

from synchuman.cli import main

QUICK = ["--stage1_steps", "1", "--guidance", "1", "--stage2-steps", "1", "--stage2_guidance", "1"]
QUICK += ["--faces", "1000", "--texture-size", "256"]


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command in this process, which has torch already; other processes' turns are not waited for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def call(*arguments: object) -> Ended:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:  # argparse's way
            code = int(str(end.code))
        return Ended(code, *capsys.readouterr())

    return call


def script(name: str, *arguments: object) -> Ended:
    """A script in a process of its own."""
    command = [sys.executable, name, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_run_then_retexture_then_skip_stage1(call: Call, person_png: bytes, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(person_png)
    work = tmp_path / "work"
    weights = tiny_weights()
    common = ("--variant", weights, "--device", "cpu", *QUICK)
    first = script("run_pipeline.py", "--image", photo, "--workdir", work, *common)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(work / "SecondStage" / "output.glb")
    assert len(trimesh.load(work / "SecondStage" / "output.glb", force="mesh").faces) > 300

    first_record = json.loads((work / "run.json").read_text())
    assert first_record["stage2"] and first_record["faces"] < 1100

    (work / "SecondStage" / "output.glb").unlink()
    again = call("run", "--workdir", work, "--retexture", "--faces", "3000")
    assert again.returncode == 0, again.stderr
    record = json.loads((work / "run.json").read_text())
    assert record["faces"] > 2900 and record["settings"] == {**first_record["settings"], "faces": 3000}

    (work / "SecondStage" / "output.glb").unlink()
    (work / "OneStage" / "latent.npz").unlink()
    arguments = ("run", "--workdir", work, "--skip_stage1", *common)
    lost = call(*arguments)
    assert lost.returncode == 3 and "latent.npz" in lost.stderr and "--carve" in lost.stderr
    again = call(*arguments, "--carve", "--stage1-only")
    assert again.returncode == 0, again.stderr
    assert "carved" in again.stderr and "left out" in again.stderr
    assert (work / "SecondStage" / "output.glb").is_file()
    record = json.loads((work / "run.json").read_text())
    assert record["status"] == "done" and not record["stage2"] and "stage 1" not in record["seconds"]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--stage1_steps", "0"], "stage1_steps"),
        (["--texture_size", "1000"], "multiple of 256"),
        (["--preset", "Ludicrous"], "Balanced"),
        (["--variant", "nothing-here"], "nothing-here"),
    ],
)
def test_unusable_input_is_said(
    call: Call, person_png: bytes, tmp_path: Path, extra: list[str], sentence: str
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(person_png)
    result = call("run", "--image", photo, "--workdir", tmp_path / "work", *extra)
    assert result.returncode == 3 and sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_photo_and_missing_photo(call: Call, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.write_bytes(encode(np.zeros((300, 200, 4), np.uint8)))
    result = call("run", "--image", empty, "--workdir", tmp_path / "work", "--variant", tiny_weights())
    assert result.returncode == 3 and "Traceback" not in result.stderr
    result = call("run", "--image", tmp_path / "none.png", "--workdir", tmp_path / "work")
    assert result.returncode == 3 and "none.png" in result.stderr
    assert call("run", "--workdir", tmp_path / "work").returncode == 3
    photo = ("--image", empty)
    for options in (("--carve", *photo), ("--skip_stage1", *photo), ("--retexture", "--skip_stage1")):
        result = call("run", "--workdir", tmp_path / "work", *options)
        assert result.returncode == 3 and options[0] in result.stderr
    assert call("run", "--workdir", tmp_path, "--nonsense").returncode == 2


def test_public_page_needs_a_password() -> None:
    for arguments in (["--share"], ["--host", "0.0.0.0"], ["--share", "--auth", "nopassword"]):
        result = script("app.py", *arguments)
        assert result.returncode == 3 and "--auth" in result.stderr


def imports(heavy: set[str], *arguments: object) -> Ended:
    """Run a command in a process of its own, which ends with 9 if it imported any of these."""
    code = (
        "import sys; from synchuman.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        f"found = {heavy!r} & set(sys.modules)\n"
        "if found: sys.exit(9)\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_help_imports_nothing_heavy() -> None:
    start = time.perf_counter()
    ended = imports({"torch", "gradio", "numpy", "trimesh", "pydantic"}, "run", "--help")
    assert ended.returncode == 0, ended.stderr
    assert time.perf_counter() - start < 5


def test_what_cannot_work_is_said_before_anything_is_loaded(person_png: bytes, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"no photo")
    good.write_bytes(person_png)
    run = ("run", "--workdir", tmp_path / "work", "--device", "cpu")
    ended = imports({"torch"}, *run, "--image", bad)
    assert ended.returncode == 3 and "not a photo" in ended.stderr, ended
    ended = imports({"diffusers", "transformers"}, *run, "--image", good, "--variant", "nothing-here")
    assert ended.returncode == 3 and "nothing-here" in ended.stderr, ended
