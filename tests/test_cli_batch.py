"""`python -m synchuman batch`: folders of photos, again and again until all are done."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import draw_person, encode
from service_server import COARSE, tiny_weights

from synchuman.cli import main
from synchuman.commands.report import Report, find_photos
from synchuman.pipeline import SyncHuman

KNOBS = [f"--{name}={COARSE[name]}" for name in ("stage1_steps", "guidance", "faces", "texture_size")]


@pytest.fixture(autouse=True)
def own_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns on the device are not shared with whatever else runs on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def batch(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    common = ["--stage1-only", "--variant", str(tiny_weights()), "--device", "cpu", "--json", *KNOBS]
    code = main(["batch", *map(str, arguments), *common])
    return code, json.loads(capsys.readouterr().out)


def test_a_second_call_does_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, outputs = tmp_path / "photos", tmp_path / "out"
    (photos / "more").mkdir(parents=True)
    for name in ("anna.png", "more/bert.png"):
        (photos / name).write_bytes(encode(draw_person(320)))
    (photos / "cora.jpg").write_bytes(b"no photo")
    (photos / "notes.txt").write_text("no photo either")

    code, told = batch(capsys, photos, "--outputs", outputs, "--recursive")
    assert code == 1 and (told["done"], told["failed"], told["missing"]) == (2, 1, 0)
    assert told["photos"]["cora"]["error"]["code"] == "bad_photo"
    assert "JPEG" in told["photos"]["cora"]["error"]["message"]
    models = [outputs / name / "SecondStage" / "output.glb" for name in ("anna", "more/bert")]
    first = [model.stat().st_mtime_ns for model in models]
    assert json.loads((outputs / "report.json").read_text())["photos"]["anna"]["faces"] > 300

    # The failed one was mended; of another one the model was lost, but its views are there.
    (photos / "cora.jpg").write_bytes(encode(draw_person(300)))
    models[1].unlink()
    views = (outputs / "more/bert/OneStage/concat.png").stat().st_mtime_ns
    code, told = batch(capsys, photos, "--outputs", outputs, "--recursive")
    assert code == 0 and (told["done"], told["failed"], told["missing"]) == (3, 0, 0)
    assert models[0].stat().st_mtime_ns == first[0] and models[1].is_file()
    assert (outputs / "more/bert/OneStage/concat.png").stat().st_mtime_ns == views
    assert "stage 1" not in told["photos"]["more/bert"]["seconds"]
    assert "stage 1" in told["photos"]["cora"]["seconds"]

    # Nothing is left to do, so no weights are read.
    with monkeypatch.context() as patched:
        patched.setattr(SyncHuman, "load", None)
        code, told = batch(capsys, photos, "--outputs", outputs, "--recursive")
    assert code == 0 and told["done"] == 3
    # With other settings, or another photo of that name, it is not done.
    report, wanted = Report.open(outputs), told["photos"]["anna"]["wanted"]
    assert report.item("anna", photos / "anna.png", wanted).done
    assert not report.item("anna", photos / "cora.jpg", wanted).done
    assert not report.item("anna", photos / "anna.png", {**wanted, "seed": 7}).done


def test_a_stopped_batch_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, outputs = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("anna.png", "bert.png"):
        (photos / name).write_bytes(encode(draw_person(320)))

    def interrupt() -> None:
        while not (outputs / "anna" / "run.json").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    slow = ["--stage1_steps", "100", "--stage1-only", "--variant", str(tiny_weights()), "--device", "cpu"]
    code = main(["batch", str(photos), "--outputs", str(outputs), *slow])
    said = capsys.readouterr().err
    assert code == 130 and "goes on" in said and "Traceback" not in said
    assert json.loads((outputs / "anna" / "run.json").read_text())["status"] == "cancelled"
    report = json.loads((outputs / "report.json").read_text())["photos"]
    assert report["anna"]["state"] == "cancelled" and "state" not in report["bert"]


def test_names_are_clear_or_refused(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "a/x.png", "a/.hidden.png", "b/x.jpg", "b/y.HEIC", "c/none.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(find_photos([tmp_path / "a"])) == ["x.jpg", "x.png"]
    assert list(find_photos([tmp_path / "b", tmp_path / "b" / "y.HEIC"])) == ["x", "y"]
    assert list(find_photos([tmp_path], recursive=True)) == ["a/x.jpg", "a/x.png", "b/x", "b/y"]
    with pytest.raises(ValueError, match="one name"):
        find_photos([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="no photos"):
        find_photos([tmp_path / "c"])


@pytest.mark.parametrize(
    "arguments", [["/does/not/exist"], ["{photo}", "--faces", "1"], ["{folder}"], ["{photo}"]]
)
def test_a_wrong_call_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    photo = tmp_path / "in" / "photo.png"
    photo.parent.mkdir()
    photo.write_bytes(b"no photo")
    (tmp_path / "empty").mkdir()
    if arguments == ["{photo}"]:
        (tmp_path / "report.json").write_text("[]")
    filled = [part.format(photo=photo, folder=tmp_path / "empty") for part in arguments]
    code = main(["batch", *filled, "--outputs", str(tmp_path), "--json"])
    said = capsys.readouterr()
    assert code == 3 and "Traceback" not in said.err
    assert json.loads(said.out)["error"]["message"] and not (tmp_path / "photo").exists()
