"""The command line, as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from conftest import encode

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--stage1_steps", "1", "--guidance", "1", "--stage2-steps", "1", "--stage2_guidance", "1"]
QUICK += ["--faces", "1000", "--texture-size", "256"]


def call(*arguments: object, script: str | None = None) -> subprocess.CompletedProcess[str]:
    start = [script] if script else ["-m", "synchuman"]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_run_then_retexture_then_skip_stage1(weights: Path, person_png: bytes, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(person_png)
    work = tmp_path / "work"
    first = call("--image", photo, "--workdir", work, "--variant", weights, *QUICK, script="run_pipeline.py")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(work / "SecondStage" / "output.glb")
    assert len(trimesh.load(work / "SecondStage" / "output.glb", force="mesh").faces) > 300

    first_record = json.loads((work / "run.json").read_text())
    assert first_record["stage2"] and first_record["faces"] < 1100

    (work / "SecondStage" / "output.glb").unlink()
    again = call("run", "--workdir", work, "--retexture", "--faces", "4000")
    assert again.returncode == 0, again.stderr
    record = json.loads((work / "run.json").read_text())
    assert record["faces"] > 3900 and record["settings"] == {**first_record["settings"], "faces": 4000}

    (work / "SecondStage" / "output.glb").unlink()
    (work / "OneStage" / "latent.npz").unlink()
    arguments = ("run", "--workdir", work, "--skip_stage1", "--variant", weights, *QUICK)
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
def test_unusable_input_is_said(person_png: bytes, tmp_path: Path, extra: list[str], sentence: str) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(person_png)
    result = call("run", "--image", photo, "--workdir", tmp_path / "work", *extra)
    assert result.returncode == 3 and sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_photo_and_missing_photo(weights: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.write_bytes(encode(np.zeros((300, 200, 4), np.uint8)))
    result = call("run", "--image", empty, "--workdir", tmp_path / "work", "--variant", weights)
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
        result = call(*arguments, script="app.py")
        assert result.returncode == 3 and "--auth" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from synchuman.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'gradio', 'numpy', 'trimesh', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - start < 5
